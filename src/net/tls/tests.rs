//! Two ends over sockets whose buffers are tiny: nothing is lost, doubled or out of order, whatever is
//! read and written when, and nothing that has been taken waits for a write to come.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::task::Waker;

use proptest::prelude::*;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Runtime};

use super::*;
use crate::net::Transport;

/// Room in the kernel for less than a record.
const TINY: u32 = 4 * 1024;

fn configs(
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let pair = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&pair).unwrap();
    let key = PrivateKeyDer::from_pem_slice(pair.serialize_pem().as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A client and a server after their handshake.
async fn pair(versions: &[&'static rustls::SupportedProtocolVersion]) -> (Transport, Transport) {
    let (server_config, client_config) = configs(versions);
    let small = |socket: &TcpSocket| {
        socket.set_send_buffer_size(TINY).unwrap();
        socket.set_recv_buffer_size(TINY).unwrap();
        socket.set_nodelay(true).unwrap();
    };
    let listening = TcpSocket::new_v4().unwrap();
    small(&listening);
    listening.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let listener: TcpListener = listening.listen(1).unwrap();
    let connecting = TcpSocket::new_v4().unwrap();
    small(&connecting);
    let connected = connecting.connect(listener.local_addr().unwrap()).await.unwrap();
    let accepted = listener.accept().await.unwrap().0;
    let (mut client, mut server) = (Transport::Tcp(connected), Transport::Tcp(accepted));
    let name = ServerName::try_from("localhost").unwrap();
    let (one, other) = tokio::join!(
        client.connect_tls(&client_config, name),
        server.accept_tls(&server_config, Vec::new(), false)
    );
    one.unwrap();
    other.unwrap();
    (client, server)
}

fn session(transport: &mut Transport) -> &mut TlsSession {
    match transport {
        Transport::Tls(_, session) => session,
        other => panic!("{other:?}"),
    }
}

/// Bytes of which each tells its place.
fn pattern(from: usize, len: usize) -> Vec<u8> {
    (from..from + len).map(|at| (at % 251) as u8 ^ (at / 251) as u8).collect()
}

/// One thing that is done at one end.
#[derive(Debug, Clone)]
enum Act {
    Write(usize),
    WriteNow(usize),
    Read(usize),
    ReadReady,
    Rehome,
}

fn act() -> impl Strategy<Value = (bool, Act)> {
    let size = prop_oneof![3 => 1..40_usize, 3 => 1..3_000_usize, 1 => 10_000..30_000_usize];
    let act = prop_oneof![
        4 => size.clone().prop_map(Act::Write),
        1 => size.clone().prop_map(Act::WriteNow),
        5 => size.prop_map(Act::Read),
        1 => Just(Act::ReadReady),
        1 => Just(Act::Rehome),
    ];
    (any::<bool>(), act)
}

/// How far the two streams of one end are.
#[derive(Default)]
struct Progress {
    written: usize,
    read: usize,
}

fn perform(
    act: &Act,
    transport: &mut Transport,
    progress: &mut Progress,
    cx: &mut Context<'_>,
) -> usize {
    match act {
        Act::Write(len) => {
            let bytes = pattern(progress.written, *len);
            if let Poll::Ready(taken) = transport.poll_write(cx, &bytes) {
                progress.written += taken.unwrap();
            }
        }
        Act::WriteNow(len) => {
            let bytes = pattern(progress.written, *len);
            progress.written += transport.write_now(&bytes).unwrap();
        }
        Act::Read(len) => {
            let mut buf = vec![0; *len];
            if let Poll::Ready(count) = transport.poll_read(cx, &mut buf) {
                let count = count.unwrap();
                assert!(count > 0, "the stream ended");
                assert_eq!(buf[..count], pattern(progress.read, count));
                progress.read += count;
            }
        }
        Act::ReadReady => {
            let ready = transport.poll_read_ready(cx).is_ready();
            assert!(ready || session(transport).plain.is_empty(), "hidden plaintext");
        }
        Act::Rehome => transport.rehome().unwrap(),
    }
    let session = session(transport);
    assert!(session.unsent.len() <= WRITE_MAX + WRITE_OVERHEAD, "{}", session.unsent.len());
    assert!(session.carry.len() <= RECORD_MAX, "{}", session.carry.len());
    session.unsent.len()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn both_streams_arrive_whole_whatever_is_done_when(
        acts in prop::collection::vec(act(), 1..80),
        is_old in any::<bool>(),
    ) {
        let versions = if is_old { [&rustls::version::TLS12] } else { [&rustls::version::TLS13] };
        runtime().block_on(async {
            let (mut client, mut server) = pair(&versions).await;
            let (mut at_client, mut at_server) = (Progress::default(), Progress::default());
            let mut cx = Context::from_waker(Waker::noop());
            for (is_client, act) in &acts {
                // Acts beyond what tokio's budget for one poll allows would all be pending.
                tokio::task::yield_now().await;
                if *is_client {
                    perform(act, &mut client, &mut at_client, &mut cx);
                } else {
                    perform(act, &mut server, &mut at_server, &mut cx);
                }
            }
            // Nothing is written any more. Whoever only reads must bring everything across.
            let all = async {
                while at_client.read < at_server.written || at_server.read < at_client.written {
                    let mut cx = Context::from_waker(Waker::noop());
                    perform(&Act::Read(5_000), &mut client, &mut at_client, &mut cx);
                    perform(&Act::Read(5_000), &mut server, &mut at_server, &mut cx);
                    tokio::task::yield_now().await;
                }
            };
            let in_time = tokio::time::timeout(std::time::Duration::from_secs(20), all).await;
            assert!(in_time.is_ok(), "something was taken and never arrived");
        });
    }
}

#[test]
fn what_waits_is_sent_by_a_reader_that_is_woken_when_it_can_be() {
    runtime().block_on(async {
        let (mut client, mut server) = pair(&[&rustls::version::TLS13]).await;
        let mut cx = Context::from_waker(Waker::noop());
        let mut written = 0;
        // Until the kernel takes no more and something waits here.
        while session(&mut client).unsent.is_empty() {
            let bytes = pattern(written, 16 * 1024);
            if let Poll::Ready(taken) = client.poll_write(&mut cx, &bytes) {
                written += taken.unwrap();
            }
        }
        assert!(client.poll_write(&mut cx, b"more").is_pending(), "no more is taken meanwhile");
        // The client only reads from now on; the server reads, and answers when it has it all.
        let answer = tokio::spawn(async move {
            let mut received = Vec::new();
            while received.len() < written {
                assert!(server.read_some(&mut received).await.unwrap() > 0);
            }
            assert_eq!(received, pattern(0, written));
            server.write_all(b"all of it").await.unwrap();
            server
        });
        let mut said = Vec::new();
        let read = client.read_some(&mut said);
        let limit = std::time::Duration::from_secs(20);
        tokio::time::timeout(limit, read).await.expect("it must be woken").unwrap();
        assert_eq!(said, b"all of it");
        drop(answer.await.unwrap());
    });
}

#[test]
fn the_end_of_the_stream_is_the_end_announced_or_not() {
    for announced in [true, false] {
        runtime().block_on(async {
            let (mut client, mut server) = pair(&[&rustls::version::TLS13]).await;
            // So that the client has read its tickets: what is unread makes its end a reset.
            server.write_all(b"hello").await.unwrap();
            assert_eq!(client.read_some(&mut Vec::new()).await.unwrap(), 5);
            client.write_all(b"last words").await.unwrap();
            if announced {
                client.say_closing();
            }
            let Transport::Tls(socket, _) = client else { panic!() };
            drop(socket);
            let mut received = Vec::new();
            while server.read_some(&mut received).await.unwrap() > 0 {}
            assert_eq!(received, b"last words");
            assert_eq!(server.read_some(&mut received).await.unwrap(), 0, "and stays it");
        });
    }
}

#[test]
fn a_garbled_record_is_an_error_behind_what_came_before_it() {
    runtime().block_on(async {
        let (mut client, mut server) = pair(&[&rustls::version::TLS13]).await;
        client.write_all(b"good").await.unwrap();
        let Transport::Tls(socket, _) = &client else { panic!() };
        SockRef::from(socket)
            .send(b"\x17\x03\x03\x00\x20 these are no bytes of TLS's own.")
            .unwrap();
        let mut received = Vec::new();
        let mut error = None;
        for _ in 0..3 {
            match server.read_some(&mut received).await {
                Ok(_) => {}
                Err(e) => error = Some(e),
            }
        }
        assert_eq!(received, b"good");
        assert_eq!(error.map(|e| e.kind()), Some(io::ErrorKind::InvalidData));
        // The peer has been told why.
        assert!(client.read_some(&mut received).await.is_err());
    });
}

/// A change to a stream of bytes, by parts of its length in 65536ths.
#[derive(Debug, Clone)]
enum Damage {
    Flip { at: u16, bits: u8 },
    Cut { at: u16, len: usize },
    Insert { at: u16, bytes: Vec<u8> },
    Double { at: u16, len: usize },
}

fn damage() -> impl Strategy<Value = Damage> {
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 1..40),
        Just(b"\x15\x03\x03\x00\x02\x01\x00".to_vec()),
        Just(b"\x16\x03\x03\x00\x04\x04\x00\xff\xff".to_vec()),
        Just(b"\x14\x03\x03\x00\x01\x01".to_vec()),
        Just(b"\x17\x03\x03\x00\x00".to_vec()),
    ];
    prop_oneof![
        4 => (any::<u16>(), 1..=255_u8).prop_map(|(at, bits)| Damage::Flip { at, bits }),
        1 => (any::<u16>(), 1..200_usize).prop_map(|(at, len)| Damage::Cut { at, len }),
        2 => (any::<u16>(), bytes).prop_map(|(at, bytes)| Damage::Insert { at, bytes }),
        1 => (any::<u16>(), 1..200_usize).prop_map(|(at, len)| Damage::Double { at, len }),
    ]
}

fn suffer(damage: &Damage, bytes: &mut Vec<u8>) {
    let place = |at: u16| usize::from(at) * bytes.len() / 65_536;
    match damage {
        _ if bytes.is_empty() => {}
        Damage::Flip { at, bits } => {
            let at = place(*at);
            bytes[at] ^= bits;
        }
        Damage::Cut { at, len } => {
            let at = place(*at);
            bytes.drain(at..(at + len).min(bytes.len()));
        }
        Damage::Insert { at, bytes: new } => {
            let at = place(*at);
            bytes.splice(at..at, new.iter().copied());
        }
        Damage::Double { at, len } => {
            let at = place(*at);
            let piece = bytes[at..(at + len).min(bytes.len())].to_vec();
            bytes.splice(at..at, piece);
        }
    }
}

/// One end of a connection in memory.
struct InMemory {
    end: End,
    incoming: Vec<u8>,
    plain: Vec<u8>,
    is_broken: bool,
}

impl InMemory {
    fn new(end: End) -> Self {
        Self { end, incoming: Vec::new(), plain: Vec::new(), is_broken: false }
    }

    /// Takes bytes in pieces of this size. Gives what it has to send.
    fn feed(&mut self, bytes: &[u8], size: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let pieces: Vec<&[u8]> =
            if bytes.is_empty() { vec![bytes] } else { bytes.chunks(size).collect() };
        for piece in pieces {
            if self.is_broken {
                break;
            }
            self.incoming.extend_from_slice(piece);
            let mut taker = Taker { buf: &mut [], filled: 0, rest: &mut self.plain };
            let (consumed, outcome) = self.end.process(&mut self.incoming, &mut taker, &mut out);
            self.incoming.drain(..consumed);
            self.is_broken = outcome.is_err();
        }
        out
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn damaged_bytes_are_an_error_or_nothing_and_never_other_bytes(
        hits in prop::collection::vec((0..4_usize, damage()), 0..3),
        size in prop_oneof![Just(1_usize), 2..50_usize, Just(100_000)],
        is_old in any::<bool>(),
    ) {
        let versions = if is_old { [&rustls::version::TLS12] } else { [&rustls::version::TLS13] };
        let (server_config, client_config) = configs(&versions);
        let name = ServerName::try_from("localhost").unwrap();
        let client = UnbufferedClientConnection::new(client_config, name).unwrap();
        let mut client = InMemory::new(End::Client(client));
        let server = UnbufferedServerConnection::new(server_config).unwrap();
        let mut server = InMemory::new(End::Server(server));
        let sent = pattern(0, 20_000);
        let mut flight = 0;
        let mut to_server = client.feed(&[], size);
        let mut to_client = Vec::new();
        while !to_server.is_empty() || !to_client.is_empty() {
            for (_, damage) in hits.iter().filter(|(at, _)| *at == flight) {
                suffer(damage, &mut to_server);
                suffer(damage, &mut to_client);
            }
            flight += 1;
            let back = server.feed(&to_server, size);
            let forth = client.feed(&to_client, size);
            (to_client, to_server) = (back, forth);
            if flight == (if is_old { 4 } else { 3 }) && !client.is_broken {
                let mut sealed = Vec::new();
                let outcome = client.end.seal(Some(&sent), &mut client.incoming, &mut sealed);
                client.is_broken |= outcome.is_err();
                to_server.extend_from_slice(&sealed);
            }
            prop_assert!(flight < 20, "they do not stop talking");
        }
        prop_assert!(sent.starts_with(&server.plain), "other bytes than were sent");
        prop_assert!(client.plain.is_empty());
        prop_assert!(!hits.is_empty() || server.plain == sent, "undamaged bytes arrive");
    }
}

#[test]
fn an_idle_connection_owns_no_buffer() {
    runtime().block_on(async {
        let (mut client, mut server) = pair(&[&rustls::version::TLS13]).await;
        let big = pattern(0, 300_000);
        let mut received = Vec::new();
        let (sent, ()) = tokio::join!(client.write_all(&big), async {
            while received.len() < big.len() {
                assert!(server.read_some(&mut received).await.unwrap() > 0);
            }
        });
        sent.unwrap();
        assert!(received == big);
        for transport in [&mut client, &mut server] {
            // Whatever came of its own accord, as tickets do, is read.
            let mut cx = Context::from_waker(Waker::noop());
            let _ = transport.poll_read(&mut cx, &mut [0; 10]);
            let session = session(transport);
            let buffers = [&session.carry, &session.plain, &session.unsent];
            assert_eq!(buffers.map(|buffer| buffer.capacity()), [0, 0, 0]);
        }
        assert!(size_of::<TlsSession>() <= 2_048, "{}", size_of::<TlsSession>());
    });
}
