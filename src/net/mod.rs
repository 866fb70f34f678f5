//! Sockets: the transport of one connection, under TLS or not, listening sockets, and the worker's scratch buffers.
//!
//! Knows nothing of PostgreSQL: bytes in, bytes out. Everything here runs on one worker's reactor,
//! and nothing here holds a buffer for a connection that has nothing to say.

mod listener;
mod names;
mod peer;
mod scratch;
mod tls;
mod transport;

pub use listener::{
    Accepted, Bound, Ends, Listener, SocketOptions, SocketOwner, bind_tcp, bind_unix,
};
pub use names::{NameTtl, Names};
pub use peer::PeerAddr;
pub use scratch::{SCRATCH_BYTES, Scratch, give_back, keep, with_scratch};
pub use tls::{HandshakeError, TlsKind, TlsSession};
pub use transport::Transport;
