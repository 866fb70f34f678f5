//! The bare relay: bytes from one socket to the other, with a server connection for each client.
//!
//! It is the floor of the comparison: what any program in the middle has to pay to the kernel. So it
//! must know nothing of PostgreSQL: no login, no messages, no pool. One thread.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::Fallible;

const BUFFER_BYTES: usize = 64 * 1024;
const BACKLOG: u32 = 1024;

/// Runs until it is killed.
pub fn run(listen_port: u16, server_port: u16) -> Fallible<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(listen_port, server_port))
}

async fn serve(listen_port: u16, server_port: u16) -> Fallible<()> {
    let local = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(local(listen_port))?;
    let listener: TcpListener = socket.listen(BACKLOG)?;
    loop {
        let (client, _) = listener.accept().await?;
        // Its client sees a lost connection, and its run counts as failed.
        tokio::spawn(async move {
            if let Ok(server) = TcpStream::connect(local(server_port)).await {
                join(client, server);
            }
        });
    }
}

fn join(client: TcpStream, server: TcpStream) {
    // A socket that refuses this is broken, which the first read will show.
    let _ = client.set_nodelay(true).and_then(|()| server.set_nodelay(true));
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    tokio::spawn(carry(client_reads, server_writes));
    tokio::spawn(carry(server_reads, client_writes));
}

/// Ends with either side; dropping the half then tells the other side of the end.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if to.write_all(&buffer[..count]).await.is_err() {
            break;
        }
    }
}
