//! The orderly end of a connection: it is told to go, and is gone when PostgreSQL has closed it.
//!
//! A server is dropped wherever its owner is, on any thread and in the middle of anything. What has
//! to be waited for happens on the worker whose reactor has the socket: [`Exit::leave`] only puts
//! the socket into that worker's inbox. PostgreSQL closes a connection when its backend has gone from
//! its books, so that end of stream is what frees the place there.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::connection::WatchInbox;
use super::node::{Leaving, Node};
use crate::net::Transport;
use crate::protocol::encode;

/// How long a backend may take to go. What takes longer is not waited for.
pub const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// The way out for connections of one worker to one node.
#[derive(Debug, Clone)]
pub struct Exit {
    /// The node they are connected to.
    pub node: Arc<Node>,
    /// The inbox of the worker whose reactor has the socket.
    pub inbox: Arc<WatchInbox>,
}

/// A connection on its way out.
#[derive(Debug)]
pub struct Closing {
    transport: Transport,
    is_free: bool,
    _leaving: Leaving,
}

impl Exit {
    /// Has a connection closed. `is_free` if the server is at a message boundary and owes nothing:
    /// then it is told so, else it only sees that nothing more will come. Makes no system call.
    pub fn leave(&self, transport: Transport, is_free: bool) {
        if matches!(transport, Transport::Closed) {
            return;
        }
        let closing = Closing { transport, is_free, _leaving: self.node.leave() };
        self.inbox.push_closing(closing);
    }
}

impl Closing {
    /// Sees it to its end, or gives up after [`CLOSE_LIMIT`]. Dropping the future closes the socket.
    pub async fn end(mut self) {
        // However it ends, the socket is closed, and that is all that can be done.
        let _ = tokio::time::timeout(CLOSE_LIMIT, self.say_goodbye()).await;
    }

    async fn say_goodbye(&mut self) -> io::Result<()> {
        let mut bytes = Vec::new();
        if self.is_free {
            encode::terminate(&mut bytes);
            self.transport.write_all(&bytes).await?;
        }
        self.transport.finish_writing()?;
        loop {
            bytes.clear();
            // What it still says is nobody's.
            if self.transport.read_some(&mut bytes).await? == 0 {
                return Ok(());
            }
        }
    }
}
