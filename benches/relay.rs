//! The whole way of a request, over loopback: the binary between a client and a PostgreSQL that
//! answers at once with bytes prepared. `direct` is the same without pgbaton: what it costs anyway.
//!
//! - `round_trip`: one client, one short question and answer at a time.
//! - `large_answer`: 1 MB for each question.
//! - `frames`: finding the messages in what was read, without a socket.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pgbaton::protocol::frame;

/// How long pgbaton may take to listen.
const START_TRIES: u32 = 200;

fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

/// What ends each answer.
fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

/// Rows of a kilobyte, and the end of the answer.
fn answer(rows: usize) -> Vec<u8> {
    let column = [&1_u16.to_be_bytes()[..], &1000_u32.to_be_bytes(), &[b'x'; 1000]].concat();
    let rows = message(b'D', &column).repeat(rows);
    [rows, message(b'C', b"SELECT 1\0"), ready()].concat()
}

fn read_exactly(stream: &mut TcpStream, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

/// The body of a message whose length is next.
fn read_body(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let length = read_exactly(stream, 4)?;
    let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
    read_exactly(stream, length.checked_sub(4)?)
}

/// A PostgreSQL that lets everybody in and gives the same answer to each Query.
fn serve(answer: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, answer) = (stream.unwrap(), answer.clone());
            std::thread::spawn(move || serve_one(stream, &answer));
        }
    });
    address
}

/// Until the client leaves.
fn serve_one(mut stream: TcpStream, answer: &[u8]) -> Option<()> {
    const STARTUP: [u8; 4] = [0, 3, 0, 0];
    stream.set_nodelay(true).unwrap();
    while !read_body(&mut stream)?.starts_with(&STARTUP) {
        stream.write_all(b"N").ok()?;
    }
    let login = [message(b'R', &[0; 4]), message(b'K', &[0, 0, 0, 1, 0, 0, 0, 2]), ready()];
    stream.write_all(&login.concat()).ok()?;
    loop {
        let tag = read_exactly(&mut stream, 1)?[0];
        read_body(&mut stream)?;
        if tag == b'Q' {
            stream.write_all(answer).ok()?;
        }
    }
}

/// A pgbaton before `server`; ended on drop.
struct Pooler {
    process: Child,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Pooler {
    fn before(server: SocketAddr) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let config = format!(
            "[general]\nlisten_addr = \"127.0.0.1\"\nlisten_port = {port}\nunix_socket_dir = \"\"\n\
             user = \"root\"\nworkers = 1\npool_mode = \"transaction\"\nauth_type = \"trust\"\n\
             [databases.bench]\nhost = \"127.0.0.1\"\nport = {}\n[users.bench]\n",
            server.port()
        );
        let file = folder.path().join("config.toml");
        std::fs::write(&file, config).unwrap();
        let binary =
            Command::new(env!("CARGO_BIN_EXE_pgbaton")).args(["run", "--config"]).arg(file).spawn();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let pooler = Self { process: binary.unwrap(), address, _folder: folder };
        let listens = (0..START_TRIES).any(|_| {
            std::thread::sleep(Duration::from_millis(20));
            TcpStream::connect(address).is_ok()
        });
        assert!(listens, "pgbaton does not listen");
        pooler
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A logged-in client.
struct Client(TcpStream);

impl Client {
    fn log_in(address: SocketAddr) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        let body = [&[0, 3, 0, 0][..], b"user\0bench\0database\0bench\0\0"].concat();
        let length = u32::try_from(body.len() + 4).unwrap();
        stream.write_all(&[&length.to_be_bytes()[..], &body].concat()).unwrap();
        let mut client = Self(stream);
        client.read_until_ready();
        client
    }

    fn read_until_ready(&mut self) {
        let (ready, mut bytes, mut end) = (ready(), vec![0; 256 * 1024], Vec::new());
        while !end.ends_with(&ready) {
            let count = self.0.read(&mut bytes).unwrap();
            assert!(count > 0, "closed: {}", String::from_utf8_lossy(&end));
            end.extend_from_slice(&bytes[count.saturating_sub(ready.len())..count]);
            end.drain(..end.len().saturating_sub(ready.len()));
        }
    }

    fn ask(&mut self) {
        self.0.write_all(&message(b'Q', b"select 1\0")).unwrap();
        self.read_until_ready();
    }
}

fn relay(c: &mut Criterion) {
    for (name, rows) in [("round_trip", 1), ("large_answer", 1000)] {
        let bytes = answer(rows);
        let mut group = c.benchmark_group(name);
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        let server = serve(bytes);
        let pooler = Pooler::before(server);
        for (name, address) in [("direct", server), ("pgbaton", pooler.address)] {
            let mut client = Client::log_in(address);
            group.bench_function(name, |b| b.iter(|| client.ask()));
        }
        group.finish();
    }
}

fn frames(c: &mut Criterion) {
    let mut group = c.benchmark_group("frames");
    let row = message(b'D', &[&1_u16.to_be_bytes()[..], &4_u32.to_be_bytes(), b"1234"].concat());
    let count = 1000;
    let bytes = row.repeat(count);
    group.throughput(Throughput::Elements(count as u64));
    group.bench_function("short_rows", |b| {
        b.iter(|| {
            let (mut rest, mut seen) = (black_box(&bytes[..]), 0);
            while let Ok(Some(header)) = frame::backend_header(rest) {
                let Some(next) = rest.get(header.len..) else { break };
                (rest, seen) = (next, seen + 1);
            }
            assert_eq!(seen, count);
        });
    });
    group.finish();
}

criterion_group!(benches, relay, frames);
criterion_main!(benches);
