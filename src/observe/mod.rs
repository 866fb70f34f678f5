//! What operators see of a running pgbaton beside its console: logs.

pub mod logs;
mod text;
