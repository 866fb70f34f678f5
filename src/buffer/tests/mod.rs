//! Unit tests of the request buffer, by topic. Single-threaded, in virtual time; threads are in
//! `stress`.

mod bounds;
mod close;
mod episodes;
mod model;
mod stress;
mod support;
mod time;
