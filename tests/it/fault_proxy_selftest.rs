//! The fault proxy itself, between two plain sockets: each fault does what it says, in its own
//! direction, and is counted.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::support::fault_proxy::{Fault, FaultProxy, Traffic, Way};
use crate::support::pgbaton::eventually;
use crate::support::wire::{message, query, with_length};

use Way::{Down, Up};

const PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing must come for it to count as silence.
const SILENCE: Duration = Duration::from_millis(50);
const MS: Duration = Duration::from_millis(1);

/// A proxy and the two ends of a connection through it.
struct Line {
    near: TcpStream,
    far: TcpStream,
    proxy: FaultProxy,
    /// Listens on, so that more connections can be made.
    _target: TcpListener,
}

impl Line {
    fn open() -> Self {
        let target = TcpListener::bind("127.0.0.1:0").unwrap();
        let proxy = FaultProxy::before(target.local_addr().unwrap());
        let near = TcpStream::connect(proxy.address()).unwrap();
        let (far, _) = target.accept().unwrap();
        for end in [&near, &far] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
            end.set_nodelay(true).unwrap();
        }
        assert!(eventually(PATIENCE, || proxy.open() == 1));
        Self { near, far, proxy, _target: target }
    }

    /// The end that sends in this direction, and the one that receives.
    fn ends(&self, way: Way) -> (&TcpStream, &TcpStream) {
        match way {
            Up => (&self.near, &self.far),
            Down => (&self.far, &self.near),
        }
    }

    fn send(&self, way: Way, bytes: &[u8]) {
        self.ends(way).0.write_all(bytes).unwrap();
    }

    fn receive(&self, way: Way, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.ends(way).1.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// What comes up to the end, and how it ends.
    fn receive_all(&self, way: Way) -> (Vec<u8>, io::Result<()>) {
        let mut bytes = Vec::new();
        let outcome = self.ends(way).1.read_to_end(&mut bytes);
        (bytes, outcome.map(|_| ()))
    }

    fn assert_passes(&self, way: Way) {
        self.send(way, b"passes");
        assert_eq!(self.receive(way, 6), b"passes", "{way:?}");
    }

    fn assert_silent(&self, way: Way) {
        let receiver = self.ends(way).1;
        receiver.set_read_timeout(Some(SILENCE)).unwrap();
        let error = (&mut &*receiver).read(&mut [0]).expect_err("silence");
        assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
    }

    fn hits(&self, way: Way) -> usize {
        self.proxy.traffic(way).hits
    }
}

fn other(way: Way) -> Way {
    match way {
        Up => Down,
        Down => Up,
    }
}

#[test]
fn a_healthy_proxy_passes_everything_both_ways_and_counts_it() {
    let line = Line::open();
    let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    for way in [Up, Down] {
        std::thread::scope(|scope| {
            scope.spawn(|| line.send(way, &bytes));
            assert!(line.receive(way, bytes.len()) == bytes);
        });
        let all = Traffic { bytes_in: bytes.len(), bytes_out: bytes.len(), hits: 0 };
        assert!(eventually(PATIENCE, || line.proxy.traffic(way) == all));
    }
    assert_eq!((line.proxy.opened(), line.proxy.most_open()), (1, 1));
}

#[test]
fn ends_in_order_pass_through_the_proxy() {
    for way in [Up, Down] {
        let line = Line::open();
        line.send(way, b"last");
        line.ends(way).0.shutdown(Shutdown::Write).unwrap();
        assert_eq!(line.receive_all(way).0, b"last");
        line.assert_passes(other(way));
        line.ends(other(way)).0.shutdown(Shutdown::Write).unwrap();
        assert!(eventually(PATIENCE, || line.proxy.open() == 0));
    }
}

#[test]
fn an_end_by_reset_passes_through_the_proxy() {
    let Line { near, far, proxy, .. } = Line::open();
    rustix::net::sockopt::set_socket_linger(&near, Some(Duration::ZERO)).unwrap();
    drop(near);
    let error = (&far).read(&mut [0]).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(eventually(PATIENCE, || proxy.open() == 0));
}

#[test]
fn a_delay_holds_up_its_own_direction() {
    for way in [Up, Down] {
        let line = Line::open();
        line.proxy.set(way, Fault::Delay(60 * MS));
        let began = Instant::now();
        line.assert_passes(way);
        assert!(began.elapsed() >= 60 * MS, "{:?}", began.elapsed());
        assert_eq!((line.hits(way), line.hits(other(way))), (1, 0));
        line.assert_passes(other(way));
    }
}

#[test]
fn a_trickle_brings_pieces_with_pauses() {
    for way in [Up, Down] {
        let line = Line::open();
        line.proxy.set(way, Fault::Trickle { bytes: 3, pause: 5 * MS });
        let began = Instant::now();
        line.send(way, b"0123456789");
        assert_eq!(line.receive(way, 10), b"0123456789");
        assert!(began.elapsed() >= 3 * 5 * MS, "{:?}", began.elapsed());
        assert_eq!(line.hits(way), 4, "pieces of 3, 3, 3 and 1");
        // Byte by byte, each comes alone.
        line.proxy.set(way, Fault::Trickle { bytes: 1, pause: 20 * MS });
        line.send(way, b"ab");
        assert_eq!((&mut &*line.ends(way).1).read(&mut [0; 8]).unwrap(), 1);
        line.receive(way, 1);
    }
}

#[test]
fn a_slow_reader_holds_its_sender_back() {
    for way in [Up, Down] {
        let line = Line::open();
        line.proxy.set(way, Fault::SlowReader { bytes: 1000, pause: 5 * MS });
        let sender = line.ends(way).0;
        sender.set_write_timeout(Some(SILENCE)).unwrap();
        let mut sent = 0;
        let error = loop {
            match (&mut &*sender).write(&[7; 60_000]) {
                Ok(count) => sent += count,
                Err(e) => break e,
            }
        };
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        let traffic = line.proxy.traffic(way);
        assert!(traffic.bytes_in < sent, "{traffic:?} of {sent}");
        assert!(traffic.hits > 0);
        line.proxy.heal();
        assert_eq!(line.receive(way, sent), vec![7; sent]);
    }
}

#[test]
fn a_cut_comes_after_so_many_bytes_and_ends_both_directions_in_order() {
    for way in [Up, Down] {
        for reset in [false, true] {
            let line = Line::open();
            line.assert_passes(way);
            // What passed before the fault was set does not count.
            let fault = if reset { Fault::ResetAfter(4) } else { Fault::CutAfter(4) };
            line.proxy.set(way, fault);
            line.send(way, b"0123");
            assert_eq!(line.receive(way, 4), b"0123");
            let (rest, outcome) = line.receive_all(way);
            assert_eq!(rest, b"");
            let (_, behind) = line.receive_all(other(way));
            for outcome in [outcome, behind] {
                let kind = outcome.err().map(|e| e.kind());
                assert_eq!(kind, reset.then_some(ErrorKind::ConnectionReset));
            }
            assert_eq!(line.hits(way), 1);
            assert!(eventually(PATIENCE, || line.proxy.open() == 0));
        }
    }
}

#[test]
fn a_cut_after_no_byte_at_all_ends_an_idle_connection() {
    let line = Line::open();
    line.proxy.set(Down, Fault::CutAfter(0));
    assert_eq!(line.receive_all(Up).0, b"");
    assert_eq!(line.receive_all(Down).0, b"");
}

#[test]
fn bytes_behind_a_cut_do_not_pass() {
    for way in [Up, Down] {
        let line = Line::open();
        line.proxy.set(way, Fault::CutAfter(7));
        line.send(way, b"0123456789");
        assert_eq!(line.receive_all(way).0, b"0123456");
    }
}

#[test]
fn a_half_close_ends_one_direction_and_the_other_goes_on() {
    for way in [Up, Down] {
        let line = Line::open();
        line.proxy.set(way, Fault::HalfCloseAfter(7));
        line.send(way, b"0123456789");
        assert_eq!(line.receive_all(way).0, b"0123456");
        line.assert_passes(other(way));
        line.send(way, b"nobody hears this");
        line.assert_passes(other(way));
        assert_eq!((line.hits(way), line.proxy.open()), (1, 1));
    }
}

#[test]
fn a_black_hole_swallows_until_it_is_healed_and_takes_new_connections_too() {
    for way in [Up, Down] {
        let line = Line::open();
        line.proxy.set(way, Fault::BlackHole);
        assert!(eventually(PATIENCE, || line.hits(way) == 1));
        line.send(way, b"swallowed");
        line.assert_silent(way);
        line.assert_passes(other(way));
        let _late = TcpStream::connect(line.proxy.address()).unwrap();
        assert!(eventually(PATIENCE, || line.hits(way) == 2));
        line.proxy.heal();
        assert_eq!(line.receive(way, 9), b"swallowed");
    }
}

#[test]
fn lost_packets_are_not_even_acknowledged() {
    for way in [Up, Down] {
        let line = Line::open();
        let sender = line.ends(way).0;
        let socket = socket2::SockRef::from(sender);
        socket.set_tcp_user_timeout(Some(300 * MS)).unwrap();
        line.proxy.set(way, Fault::LosePackets);
        assert!(eventually(PATIENCE, || line.hits(way) == 1));
        line.send(way, b"lost");
        line.assert_silent(way);
        // With a black hole it would never end: the kernel behind it acknowledges.
        let gave_up = (&mut &*sender).read(&mut [0]).expect_err("unacknowledged");
        assert_eq!(gave_up.kind(), ErrorKind::TimedOut);
    }
}

#[test]
fn packets_lost_for_a_while_come_in_the_end() {
    let line = Line::open();
    line.proxy.set(Up, Fault::LosePackets);
    assert!(eventually(PATIENCE, || line.hits(Up) == 1));
    line.send(Up, b"sent again");
    line.assert_silent(Up);
    line.proxy.heal();
    assert_eq!(line.receive(Up, 10), b"sent again");
}

#[test]
fn the_length_of_the_message_that_was_asked_for_is_garbled() {
    let startup = with_length(b"\0\x03\0\0user\0me\0\0");
    let messages = [startup, query("one"), message(b'S', &[]), query("two"), query("three")];
    for (number, garbled) in messages.iter().enumerate() {
        let line = Line::open();
        line.proxy.set(Up, Fault::CorruptLength { message: number, length: -2 });
        let mut expected = messages.clone();
        let at = usize::from(number > 0);
        expected[number][at..at + 4].copy_from_slice(&(-2_i32).to_be_bytes());
        for byte in messages.concat() {
            // However it is cut: each byte may come alone.
            line.send(Up, &[byte]);
        }
        let sent = messages.concat().len();
        assert_eq!(line.receive(Up, sent), expected.concat(), "{garbled:?}");
        assert!(line.hits(Up) > 0);
    }
}

#[test]
fn garbling_counts_from_when_it_was_set_and_messages_of_a_server_have_types() {
    let line = Line::open();
    line.send(Down, &[message(b'R', &[0; 4]), message(b'Z', b"I")].concat());
    line.receive(Down, 9 + 6);
    line.proxy.set(Down, Fault::CorruptLength { message: 1, length: 3 });
    line.send(Down, &[message(b'T', b"\0\0"), message(b'C', b"x\0"), message(b'Z', b"I")].concat());
    let expected = [message(b'T', b"\0\0"), b"C\0\0\0\x03x\0".to_vec(), message(b'Z', b"I")];
    assert_eq!(line.receive(Down, 7 + 7 + 6), expected.concat());
}

#[test]
fn the_end_of_a_proxy_does_not_wait_for_anybody() {
    for fault in [Fault::Healthy, Fault::BlackHole, Fault::LosePackets, Fault::Delay(PATIENCE * 9)]
    {
        let line = Line::open();
        line.proxy.set_both(fault);
        line.send(Up, b"under way");
        let began = Instant::now();
        drop(line.proxy);
        assert!(began.elapsed() < PATIENCE, "{fault:?}");
    }
}

#[test]
fn a_target_that_refuses_ends_the_connection() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let proxy = FaultProxy::before(nobody);
    let mut near = TcpStream::connect(proxy.address()).unwrap();
    near.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(near.read(&mut [0]).unwrap_or(0), 0);
    assert_eq!(proxy.opened(), 0);
}
