//! A TCP proxy that does to a connection what networks do: it delays, trickles, cuts, half-closes,
//! resets, swallows, loses packets and garbles. It may stand before pgbaton or before PostgreSQL.
//!
//! Each direction has one fault at a time, which may be changed while connections are open. All
//! that passes is counted, and so is each time that a fault has acted: a test can tell whether it
//! tested anything. It knows of the protocol where messages begin, and nothing more. All threads
//! are joined on drop.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::net::sockopt::set_socket_linger;
use socket2::{SockFilter, SockRef};

const POLL_INTERVAL: Duration = Duration::from_millis(2);
/// How much of a direction may be in the proxy itself.
const CHUNK_BYTES: usize = 64 * 1024;

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From who connected to the proxy towards the target.
    Up,
    /// From the target back.
    Down,
}

/// What is done to the bytes of one direction. Numbers of bytes and messages are those of one
/// connection since the fault was set, or since it was opened, if that came later.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    #[default]
    Healthy,
    /// What was read at once is kept this long before it is sent on.
    Delay(Duration),
    /// This many bytes are sent on at a time, with a pause behind each.
    Trickle { bytes: usize, pause: Duration },
    /// This many bytes are taken from their sender at a time, with a pause behind each.
    SlowReader { bytes: usize, pause: Duration },
    /// After so many bytes both ends are closed in order.
    CutAfter(usize),
    /// After so many bytes this direction is ended in order, and what still comes is thrown away.
    /// The other direction goes on.
    HalfCloseAfter(usize),
    /// After so many bytes both ends are closed by a reset.
    ResetAfter(usize),
    /// Nothing is read and nothing sent on. The kernel still takes what fits into its buffers.
    BlackHole,
    /// As if a cable were cut at the sender: none of its packets arrive any more, not even the
    /// acknowledgements of what the other direction brings it.
    LosePackets,
    /// Message number `message`, counted from 0, gets this length word.
    CorruptLength { message: usize, length: i32 },
}

/// A listening proxy.
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    target: SocketAddr,
    stopping: AtomicBool,
    up: Lane,
    down: Lane,
    opened: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

/// One direction of all connections.
#[derive(Default)]
struct Lane {
    /// The fault, and how often it was changed. Held for a moment; nothing is locked under it.
    fault: Mutex<(Fault, usize)>,
    bytes_in: AtomicUsize,
    bytes_out: AtomicUsize,
    hits: AtomicUsize,
}

/// What has passed in one direction, over all connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes taken from their senders.
    pub bytes_in: usize,
    /// Bytes sent on; counted a moment later.
    pub bytes_out: usize,
    /// How often a fault has acted: once for each piece that was held up or cut short, each
    /// connection that was ended or silenced, each message that was garbled.
    pub hits: usize,
}

impl FaultProxy {
    /// Listens on a free port of 127.0.0.1 and leads to `target`. Healthy at first.
    pub fn before(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            target,
            stopping: AtomicBool::new(false),
            up: Lane::default(),
            down: Lane::default(),
            opened: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            most_open: AtomicUsize::new(0),
        });
        let acceptor = {
            let shared = Arc::clone(&shared);
            thread::Builder::new()
                .name("proxy-acceptor".into())
                .spawn(move || shared.accept_until_stopped(&listener))
        };
        Self { address, shared, acceptor: Some(acceptor.unwrap()) }
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on this is done to one direction of all connections, open ones included.
    pub fn set(&self, way: Way, fault: Fault) {
        let mut current = self.shared.lane(way).fault.lock();
        *current = (fault, current.1 + 1);
    }

    /// The same for both directions.
    pub fn set_both(&self, fault: Fault) {
        self.set(Way::Up, fault);
        self.set(Way::Down, fault);
    }

    /// From now on all passes. What a fault has ended stays ended.
    pub fn heal(&self) {
        self.set_both(Fault::Healthy);
    }

    /// What has passed in one direction so far.
    pub fn traffic(&self, way: Way) -> Traffic {
        let lane = self.shared.lane(way);
        let load = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        Traffic {
            bytes_in: load(&lane.bytes_in),
            bytes_out: load(&lane.bytes_out),
            hits: load(&lane.hits),
        }
    }

    /// Connections that were ever opened.
    pub fn opened(&self) -> usize {
        self.shared.opened.load(Ordering::Relaxed)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::Relaxed)
    }

    /// The most connections that were open at a time.
    pub fn most_open(&self) -> usize {
        self.shared.most_open.load(Ordering::Relaxed)
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::Relaxed);
        let outcome = self.acceptor.take().map(JoinHandle::join);
        // A second panic while the test is failing already would hide the first.
        if !thread::panicking() {
            assert!(!matches!(outcome, Some(Err(_))), "the proxy itself failed, see above");
        }
    }
}

impl Lane {
    fn hit(&self) {
        self.hits.fetch_add(1, Ordering::Relaxed);
    }
}

impl Shared {
    const fn lane(&self, way: Way) -> &Lane {
        match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Each connection has two threads; all are joined before this one ends.
    fn accept_until_stopped(self: &Arc<Self>, listener: &TcpListener) {
        let mut connections = Vec::new();
        while !self.is_stopping() {
            match listener.accept() {
                Ok((stream, _)) => {
                    let shared = Arc::clone(self);
                    connections.push(thread::spawn(move || shared.serve(stream)));
                }
                Err(_) => thread::sleep(POLL_INTERVAL),
            }
        }
        for connection in connections {
            connection.join().expect("a connection's thread failed");
        }
    }

    fn serve(&self, from: TcpStream) {
        // A target that refuses is no fault of the proxy's: the connection ends as it would there.
        let Ok(to) = TcpStream::connect(self.target) else {
            return;
        };
        for stream in [&from, &to] {
            stream.set_nonblocking(false).unwrap();
            stream.set_nodelay(true).unwrap();
            stream.set_read_timeout(Some(POLL_INTERVAL)).unwrap();
            stream.set_write_timeout(Some(POLL_INTERVAL)).unwrap();
        }
        self.opened.fetch_add(1, Ordering::Relaxed);
        let open = self.open.fetch_add(1, Ordering::Relaxed) + 1;
        self.most_open.fetch_max(open, Ordering::Relaxed);
        let ended = AtomicBool::new(false);
        let pump = |way, source, sink| Pump {
            shared: self,
            way,
            source,
            sink,
            ended: &ended,
            held: Vec::new(),
            marked: 0,
            set: None,
            passed: 0,
            messages: Messages::first_of(way),
            is_deaf: false,
            is_drained: false,
        };
        thread::scope(|scope| {
            scope.spawn(|| pump(Way::Down, &to, &from).run());
            pump(Way::Up, &from, &to).run();
        });
        drop((from, to));
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One direction of one connection.
struct Pump<'a> {
    shared: &'a Shared,
    way: Way,
    source: &'a TcpStream,
    sink: &'a TcpStream,
    /// The connection is to be closed; known to both of its pumps.
    ended: &'a AtomicBool,
    /// Read and not sent on.
    held: Vec<u8>,
    /// How much of it the count of messages has passed over.
    marked: usize,
    /// The number of the fault that the next two are counted for.
    set: Option<usize>,
    /// Bytes sent on under this fault.
    passed: usize,
    messages: Messages,
    /// Packets of the source are lost.
    is_deaf: bool,
    /// This direction has been half-closed: what comes is thrown away.
    is_drained: bool,
}

impl Pump<'_> {
    fn run(&mut self) {
        while !self.shared.is_stopping() && !self.ended.load(Ordering::Relaxed) {
            let fault = self.current_fault();
            match self.step(fault) {
                Ok(true) => {}
                // The end of this direction, in order.
                Ok(false) => {
                    let _ = self.sink.shutdown(Shutdown::Write);
                    return;
                }
                // One end is broken: so is the connection.
                Err(_) => return self.end_by_reset(),
            }
        }
    }

    /// The fault in force; counts begin anew when it was changed.
    fn current_fault(&mut self) -> Fault {
        let (fault, number) = *self.lane().fault.lock();
        if self.set.replace(number) != Some(number) {
            self.passed = 0;
            self.messages.seen = 0;
            self.hear(fault != Fault::LosePackets);
            if matches!(fault, Fault::BlackHole | Fault::LosePackets) {
                self.lane().hit();
            }
        }
        fault
    }

    const fn lane(&self) -> &Lane {
        self.shared.lane(self.way)
    }

    /// Moves one piece at most. False at the end of the source.
    fn step(&mut self, fault: Fault) -> io::Result<bool> {
        if matches!(fault, Fault::BlackHole | Fault::LosePackets) {
            thread::sleep(POLL_INTERVAL);
            return Ok(true);
        }
        let room = match fault {
            Fault::CutAfter(k) | Fault::HalfCloseAfter(k) | Fault::ResetAfter(k) => k - self.passed,
            _ => usize::MAX,
        };
        if room == 0 && !self.is_drained {
            self.lane().hit();
            return Ok(self.end_as(fault));
        }
        if self.held.is_empty() {
            return self.fill(fault);
        }
        if self.is_drained {
            self.held.clear();
            return Ok(true);
        }
        let (mut bytes_max, mut behind, mut wrong) = (room, Duration::ZERO, None);
        match fault {
            Fault::Delay(time) => self.sleep(time),
            Fault::Trickle { bytes, pause } => (bytes_max, behind) = (bytes, pause),
            Fault::SlowReader { pause, .. } => behind = pause,
            Fault::CorruptLength { message, length } => wrong = Some((message, length)),
            _ => {}
        }
        if matches!(fault, Fault::Delay(_)) || !behind.is_zero() || bytes_max < room {
            self.lane().hit();
        }
        let count = self.held.len().min(bytes_max);
        let marked = self.marked.min(count);
        if self.messages.pass(&mut self.held[marked..count], wrong) {
            self.lane().hit();
        }
        self.marked = self.marked.max(count);
        if self.write(count)? {
            self.sleep(behind);
        }
        Ok(true)
    }

    /// Reads once into `held`, if anything is there.
    fn fill(&mut self, fault: Fault) -> io::Result<bool> {
        let bytes_max = match fault {
            Fault::SlowReader { bytes, .. } => bytes,
            _ => CHUNK_BYTES,
        };
        self.held.resize(bytes_max, 0);
        let outcome = (&mut &*self.source).read(&mut self.held);
        self.held.truncate(*outcome.as_ref().unwrap_or(&0));
        match outcome {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.lane().bytes_in.fetch_add(count, Ordering::Relaxed);
                Ok(true)
            }
            Err(e) if is_timeout(&e) => Ok(true),
            Err(e) => Err(e),
        }
    }

    /// Sends the first `count` bytes of what is held, or as many as the sink takes.
    fn write(&mut self, count: usize) -> io::Result<bool> {
        let sent = match (&mut &*self.sink).write(&self.held[..count]) {
            Err(e) if is_timeout(&e) => 0,
            sent => sent?,
        };
        self.lane().bytes_out.fetch_add(sent, Ordering::Relaxed);
        self.passed += sent;
        self.marked -= sent;
        self.held.drain(..sent);
        Ok(sent > 0)
    }

    /// Ends what a fault says must end. False if this direction is over.
    fn end_as(&mut self, fault: Fault) -> bool {
        match fault {
            Fault::HalfCloseAfter(_) => {
                let _ = self.sink.shutdown(Shutdown::Write);
                self.is_drained = true;
            }
            Fault::ResetAfter(_) => self.end_by_reset(),
            _ => {
                for stream in [self.source, self.sink] {
                    let _ = stream.shutdown(Shutdown::Both);
                }
                self.ended.store(true, Ordering::Relaxed);
            }
        }
        true
    }

    /// Has both ends closed by a reset, as soon as the other pump has noticed.
    fn end_by_reset(&self) {
        for stream in [self.source, self.sink] {
            // A linger time of zero makes the close a reset.
            let _ = set_socket_linger(stream, Some(Duration::ZERO));
        }
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Whether packets of the source arrive. The kernel drops them before TCP has seen them, so
    /// that they are not even acknowledged.
    fn hear(&mut self, hears: bool) {
        let source = SockRef::from(self.source);
        if hears && self.is_deaf {
            source.detach_filter().unwrap();
        } else if !hears {
            source.attach_filter(&[DROP_ALL]).unwrap();
        }
        self.is_deaf = !hears;
    }

    /// Sleeps, but not beyond the end of the test.
    fn sleep(&self, time: Duration) {
        let began = Instant::now();
        while let Some(left) = time.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
            if self.shared.is_stopping() {
                return;
            }
            thread::sleep(left.min(POLL_INTERVAL));
        }
    }
}

/// A packet filter of one instruction: return 0, the number of bytes to be kept.
const DROP_ALL: SockFilter = SockFilter::new(0x06, 0, 0, 0);

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Where messages begin in one direction. An SSLRequest and the `N` that answers it are passed over and
/// not counted; what follows an `S` is not known.
struct Messages {
    /// The head of the message under way, as far as it has come: type, if it has one, and length.
    head: Vec<u8>,
    /// A message without a type byte: the first one of a client.
    is_bare: bool,
    /// Nothing of a server has come yet: an `N` is no notice.
    is_answer: bool,
    /// Bytes to come of the message under way.
    left: usize,
    /// Messages that have begun.
    seen: usize,
}

impl Messages {
    const fn first_of(way: Way) -> Self {
        let (is_bare, is_answer) = (matches!(way, Way::Up), matches!(way, Way::Down));
        Self { head: Vec::new(), is_bare, is_answer, left: 0, seen: 0 }
    }

    /// Passes over bytes. The length word of the message with the number `wrong.0` is replaced by
    /// `wrong.1`; true if a part of it was among the bytes.
    fn pass(&mut self, bytes: &mut [u8], wrong: Option<(usize, i32)>) -> bool {
        let mut at = 0;
        let mut is_garbled = false;
        while at < bytes.len() {
            let skipped = self.left.min(bytes.len() - at);
            self.left -= skipped;
            at += skipped;
            let Some(byte) = bytes.get_mut(at) else { break };
            if std::mem::take(&mut self.is_answer) && *byte == b'N' {
                at += 1;
                continue;
            }
            self.head.push(*byte);
            at += 1;
            let of_length = self.head.len() + usize::from(self.is_bare);
            if let Some((_, length)) = wrong.filter(|(number, _)| *number == self.seen)
                && of_length > 1
            {
                *byte = length.to_be_bytes()[of_length - 2];
                is_garbled = true;
            }
            if of_length == 5 {
                let length = &self.head[self.head.len() - 4..];
                let length = u32::from_be_bytes(length.try_into().expect("four bytes"));
                self.left = usize::try_from(length).unwrap().saturating_sub(4);
                self.head.clear();
                // No other message of a client's first has eight bytes.
                let is_ssl_request = self.is_bare && self.left == 4;
                self.is_bare = is_ssl_request;
                self.seen += usize::from(!is_ssl_request);
            }
        }
        is_garbled
    }
}
