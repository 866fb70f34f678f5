//! Unit tests of the pool, by topic. Single-threaded, in virtual time; threads are in `stress`.

mod check;
mod control;
mod expiry;
mod handoff;
mod model;
mod pause;
mod shared;
mod size;
mod stress;
mod support;
