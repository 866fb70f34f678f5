//! Random sequences of operations on three lanes, against a naive model.
//!
//! The model keeps one plain vector of all that wait, in order of arrival, and predicts the answer to
//! every operation and every outcome, exactly: in virtual time, on one thread, nothing is left to
//! chance. After every step all tickets are polled and all figures compared.

use std::collections::{BTreeMap, HashMap};
use std::task::Poll;
use std::time::Duration;

use proptest::prelude::*;

use super::support::*;
use crate::buffer::*;
use crate::primitives::Tick;
use crate::timeouts::TimeoutHandle;

const LANES: usize = 3;

#[derive(Clone, Debug)]
enum Op {
    Hold {
        lane: usize,
        bytes: usize,
        stale: bool,
    },
    Join {
        lane: usize,
        bytes: usize,
    },
    Start {
        lane: usize,
    },
    Serving {
        lane: usize,
    },
    Cancel {
        pick: usize,
    },
    /// Drops a ticket that was released and has not been looked at.
    CancelReleased {
        lane: usize,
    },
    Finish {
        pick: usize,
        dropped: bool,
    },
    Advance {
        millis: u64,
        sweep: bool,
    },
    Resize {
        requests: usize,
        bytes: usize,
    },
    Times {
        window: u64,
        max: u64,
        gap: u64,
    },
    Concurrency {
        at_once: usize,
    },
    Close,
}

fn op() -> impl Strategy<Value = Op> {
    let lane = 0..LANES;
    let bytes = prop_oneof![8 => 0..12usize, 2 => 30..60usize, 1 => 90..120usize];
    prop_oneof![
        400 => (lane.clone(), bytes.clone(), proptest::bool::weighted(0.05))
            .prop_map(|(lane, bytes, stale)| Op::Hold { lane, bytes, stale }),
        100 => (lane.clone(), bytes).prop_map(|(lane, bytes)| Op::Join { lane, bytes }),
        30 => lane.clone().prop_map(|lane| Op::Start { lane }),
        60 => lane.clone().prop_map(|lane| Op::Serving { lane }),
        60 => (0..64usize).prop_map(|pick| Op::Cancel { pick }),
        80 => lane.prop_map(|lane| Op::CancelReleased { lane }),
        150 => (0..64usize, any::<bool>()).prop_map(|(pick, dropped)| Op::Finish { pick, dropped }),
        100 => (0..300u64, any::<bool>()).prop_map(|(millis, sweep)| Op::Advance { millis, sweep }),
        15 => (0..12usize, 0..120usize)
            .prop_map(|(requests, bytes)| Op::Resize { requests, bytes }),
        15 => (100..1_500u64, 100..2_000u64, 0..100u64)
            .prop_map(|(window, max, gap)| Op::Times { window, max, gap }),
        10 => (0..4usize).prop_map(|at_once| Op::Concurrency { at_once }),
        1 => Just(Op::Close),
    ]
}

/// How a wait must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum End {
    Released,
    TooLong,
    Evicted,
    Late,
    Closed,
}

struct Waiting {
    ticket: Ticket,
    lane: usize,
    bytes: usize,
    since: Tick,
}

struct Out {
    retry: Retry,
    lane: usize,
    bytes: usize,
}

/// A lane as the model sees it.
#[derive(Default)]
struct Twin {
    state: LaneState,
    since: Tick,
    ended: Option<Tick>,
    episode: u64,
    buffered: u64,
    ends: u64,
}

struct Bench {
    buffer: Buffer,
    timeouts: TimeoutHandle,
    lanes: Vec<Lane>,
    twins: Vec<Twin>,
    limits: BufferLimits,
    /// In order of arrival.
    waiting: Vec<Waiting>,
    out: Vec<Out>,
    closed: bool,
    now: Tick,
    /// The timeout thread's clock: operations that bring no moment use it.
    swept: Tick,
    tally: HashMap<&'static str, usize>,
}

impl Bench {
    fn new(limits: BufferLimits) -> Self {
        let timeouts = TimeoutHandle::manual();
        let buffer = Buffer::new(limits.clone(), timeouts.clone());
        let lanes = (0..LANES).map(|_| buffer.lane()).collect();
        let twins = (0..LANES).map(|_| Twin::default()).collect();
        let (waiting, out, tally) = (vec![], vec![], HashMap::new());
        let (now, swept) = (Tick::ZERO, Tick::ZERO);
        let closed = false;
        Self { buffer, timeouts, lanes, twins, limits, waiting, out, closed, now, swept, tally }
    }

    fn note(&mut self, what: &'static str) {
        *self.tally.entry(what).or_default() += 1;
    }

    fn held(&self) -> (usize, usize) {
        let waiting = self.waiting.iter().map(|w| w.bytes);
        let out = self.out.iter().map(|out| out.bytes);
        (self.waiting.len() + self.out.len(), waiting.chain(out).sum())
    }

    fn buffering(&self, lane: usize) -> bool {
        self.twins[lane].state == LaneState::Buffering
    }

    fn draining(&self, lane: usize) -> bool {
        matches!(self.twins[lane].state, LaneState::Draining | LaneState::GivingUp)
    }

    fn deadline(&self, since: Tick) -> Tick {
        since.after(self.limits.window)
    }

    /// Ends the wait at `at`: it must have been told exactly this.
    fn end(&mut self, at: usize, how: End, now: Tick) {
        let mut gone = self.waiting.remove(at);
        let after = now.since(gone.since);
        let twin = &mut self.twins[gone.lane];
        twin.ends += 1;
        let episode = twin.episode;
        let (seen, waited) = match poll(&mut gone.ticket) {
            Poll::Ready(Outcome::Released(retry)) => (End::Released, self.took(retry, &gone)),
            Poll::Ready(Outcome::EpisodeTooLong(retry)) => (End::TooLong, self.took(retry, &gone)),
            Poll::Ready(Outcome::Evicted { waited }) => (End::Evicted, waited),
            Poll::Ready(Outcome::WindowExceeded { waited }) => (End::Late, waited),
            Poll::Ready(Outcome::Closed { waited }) => (End::Closed, waited),
            Poll::Pending => panic!("expected {how:?} at {now:?}, waits on since {:?}", gone.since),
        };
        assert_eq!((seen, waited), (how, after));
        assert!(how == End::Closed || seen == how && self.twins[gone.lane].episode == episode);
        self.note(match how {
            End::Released => "released",
            End::TooLong => "too long",
            End::Evicted => "evicted",
            End::Late => "late",
            End::Closed => "closed",
        });
    }

    fn took(&mut self, retry: Retry, gone: &Waiting) -> Duration {
        assert_eq!(retry.episode(), self.twins[gone.lane].episode);
        let waited = retry.waited();
        self.out.push(Out { retry, lane: gone.lane, bytes: gone.bytes });
        waited
    }

    /// The oldest of those for which `wanted` holds.
    fn oldest(&self, wanted: impl Fn(&Waiting) -> bool) -> Option<usize> {
        self.waiting.iter().position(wanted)
    }

    fn retrying(&self, lane: usize) -> usize {
        self.out.iter().filter(|out| out.lane == lane).count()
    }

    /// Releases what a lane may release, and ends its episode if that is all.
    fn release(&mut self, lane: usize, now: Tick) {
        if !self.draining(lane) {
            return;
        }
        let how = match self.twins[lane].state {
            LaneState::GivingUp => End::TooLong,
            _ => End::Released,
        };
        while !self.closed && self.retrying(lane) < self.limits.drain_concurrency.max(1) {
            let Some(head) = self.oldest(|w| w.lane == lane) else {
                break;
            };
            let late = self.deadline(self.waiting[head].since) <= now;
            self.end(head, if late { End::Late } else { how }, now);
        }
        self.settle(lane, now);
    }

    fn settle(&mut self, lane: usize, now: Tick) {
        if self.draining(lane)
            && self.retrying(lane) == 0
            && self.oldest(|w| w.lane == lane).is_none()
        {
            self.twins[lane].state = LaneState::Idle;
            self.twins[lane].ended = Some(now);
        }
    }

    fn begin(&mut self, lane: usize) -> bool {
        let twin = &mut self.twins[lane];
        let gap = self.limits.min_time_between_failovers;
        if twin.ended.is_some_and(|ended| self.now.since(ended) < gap) {
            return false;
        }
        (twin.state, twin.since) = (LaneState::Buffering, self.now);
        twin.episode += 1;
        true
    }

    fn hold(&mut self, lane: usize, bytes: usize, stale: bool) {
        let attempt = self.lanes[lane].attempt();
        if stale {
            self.run(&Op::Serving { lane });
        }
        let answer = self.lanes[lane].hold(Request::new(bytes), attempt, self.now);
        let state = self.twins[lane].state;
        match state {
            _ if self.closed => assert_eq!(refused(answer), Refusal::Closed),
            _ if self.limits.requests == 0 => assert_eq!(skipped(answer), Skip::Off),
            _ if stale => drop(sent(answer)),
            LaneState::Draining => {
                self.note("sent again");
                drop(sent(answer));
            }
            LaneState::GivingUp => assert_eq!(skipped(answer), Skip::EpisodeTooLong),
            LaneState::Idle if !self.begin(lane) => {
                self.note("too soon");
                assert_eq!(skipped(answer), Skip::TooSoon);
            }
            LaneState::Idle | LaneState::Buffering => self.enter(lane, bytes, answer),
        }
    }

    fn join(&mut self, lane: usize, bytes: usize) {
        let answer = self.lanes[lane].join(Request::new(bytes), self.now);
        if self.closed {
            assert_eq!(refused(answer), Refusal::Closed);
        } else if self.buffering(lane) && self.limits.requests > 0 {
            self.enter(lane, bytes, answer);
        } else {
            drop(sent(answer));
        }
    }

    /// What a lane that is buffering must answer.
    fn enter(&mut self, lane: usize, bytes: usize, answer: Admission) {
        if bytes > self.limits.bytes {
            assert_eq!(refused(answer), Refusal::TooLarge);
            return;
        }
        // Who goes for it, if that is enough.
        let (mut count, mut sum) = self.held();
        let fits = |count, sum| count < self.limits.requests && sum + bytes <= self.limits.bytes;
        let mut going = 0;
        for waiting in self.waiting.iter().filter(|w| self.buffering(w.lane)) {
            if fits(count, sum) {
                break;
            }
            (count, sum, going) = (count - 1, sum - waiting.bytes, going + 1);
        }
        if !fits(count, sum) {
            self.note("refused");
            assert_eq!(refused(answer), Refusal::Full);
            return;
        }
        for _ in 0..going {
            let oldest = self.oldest(|w| self.buffering(w.lane)).expect("somebody to evict");
            let late = self.deadline(self.waiting[oldest].since) <= self.now;
            self.end(oldest, if late { End::Late } else { End::Evicted }, self.now);
        }
        self.twins[lane].buffered += 1;
        let (ticket, since) = (waits(answer), self.now);
        self.waiting.push(Waiting { ticket, lane, bytes, since });
    }

    fn sweep(&mut self) {
        self.swept = self.now;
        self.timeouts.run_due(self.now);
        while let Some(due) = self.oldest(|w| self.deadline(w.since) <= self.now) {
            let lane = self.waiting[due].lane;
            self.end(due, End::Late, self.now);
            self.settle(lane, self.now);
        }
        let max = self.limits.max_failover_duration;
        for lane in 0..LANES {
            if self.buffering(lane) && self.twins[lane].since.after(max) <= self.now {
                self.twins[lane].state = LaneState::GivingUp;
                self.release(lane, self.now);
            }
        }
    }

    fn resize(&mut self, requests: usize, bytes: usize) {
        self.limit(|limits| BufferLimits { requests, bytes, ..limits });
        loop {
            let (count, sum) = self.held();
            let oldest = self.oldest(|w| self.buffering(w.lane));
            let Some(oldest) = oldest.filter(|_| count > requests || sum > bytes) else {
                return;
            };
            let late = self.deadline(self.waiting[oldest].since) <= self.now;
            self.end(oldest, if late { End::Late } else { End::Evicted }, self.now);
        }
    }

    fn limit(&mut self, change: impl FnOnce(BufferLimits) -> BufferLimits) {
        self.limits = change(self.limits.clone());
        self.buffer.set_limits(&self.limits, self.now);
    }

    /// Gives up one that was released by its elder's end and has not been looked at.
    fn cancel_released(&mut self, lane: usize) {
        let at = self.out.iter().position(|out| out.lane == lane);
        let next = self.oldest(|w| w.lane == lane);
        let full = self.retrying(lane) == self.limits.drain_concurrency.max(1);
        let (Some(at), Some(next), true, true) = (at, next, full, self.draining(lane)) else {
            return;
        };
        // By the timeout thread's clock, for both.
        if self.closed || self.deadline(self.waiting[next].since) <= self.swept {
            return;
        }
        drop(self.out.remove(at).retry);
        drop(self.waiting.remove(next).ticket);
        self.twins[lane].ends += 1;
        self.note("dropped unseen");
        self.release(lane, self.swept);
    }

    fn run(&mut self, op: &Op) {
        match *op {
            Op::Hold { lane, bytes, stale } => self.hold(lane, bytes, stale),
            Op::Join { lane, bytes } => self.join(lane, bytes),
            Op::Start { lane } => {
                let may = !self.closed && self.limits.requests > 0;
                let state = self.twins[lane].state;
                let idle = state == LaneState::Idle;
                let expected = may && (state == LaneState::Buffering || (idle && self.begin(lane)));
                assert_eq!(self.lanes[lane].start(self.now), expected);
            }
            Op::Serving { lane } => {
                self.lanes[lane].serving(self.now);
                if self.twins[lane].state != LaneState::Idle {
                    self.twins[lane].state = LaneState::Draining;
                    self.release(lane, self.now);
                }
            }
            Op::Cancel { pick } if !self.waiting.is_empty() => {
                let gone = self.waiting.remove(pick % self.waiting.len());
                drop(gone.ticket);
                self.twins[gone.lane].ends += 1;
                self.settle(gone.lane, self.swept);
                self.note("cancelled");
            }
            Op::CancelReleased { lane } => self.cancel_released(lane),
            Op::Finish { pick, dropped } if !self.out.is_empty() => {
                let out = self.out.remove(pick % self.out.len());
                let now = if dropped { self.swept } else { self.now };
                if dropped {
                    drop(out.retry)
                } else {
                    out.retry.finish(now)
                }
                self.release(out.lane, now);
            }
            Op::Cancel { .. } | Op::Finish { .. } => {}
            Op::Advance { millis, sweep } => {
                self.now = self.now.after(ms(millis));
                if sweep {
                    self.sweep();
                }
            }
            Op::Resize { requests, bytes } => self.resize(requests, bytes),
            Op::Times { window, max, gap } => self.limit(|limits| BufferLimits {
                window: ms(window),
                max_failover_duration: ms(max),
                min_time_between_failovers: ms(gap),
                ..limits
            }),
            Op::Concurrency { at_once } => {
                self.limit(|limits| BufferLimits { drain_concurrency: at_once, ..limits });
                (0..LANES).for_each(|lane| self.release(lane, self.now));
            }
            Op::Close => {
                self.closed = true;
                self.buffer.close();
                while !self.waiting.is_empty() {
                    let lane = self.waiting[0].lane;
                    self.end(0, End::Closed, self.swept);
                    self.settle(lane, self.swept);
                }
                for lane in (0..LANES).filter(|lane| self.buffering(*lane)).collect::<Vec<_>>() {
                    self.twins[lane].state = LaneState::GivingUp;
                    self.settle(lane, self.swept);
                }
            }
        }
    }

    /// What must hold after every step: nobody was told anything that the model did not foresee, and
    /// every figure is exact.
    fn check(&mut self) {
        self.waiting.iter_mut().for_each(|waiting| pending(&mut waiting.ticket));
        let (requests, bytes) = self.held();
        let seen = self.buffer.snapshot();
        assert_eq!(seen.held, Load { requests, bytes });
        assert_eq!(seen.waiting, self.waiting.len());
        assert_eq!(seen.oldest, self.waiting.first().map(|waiting| waiting.since));
        assert_eq!((seen.closed, seen.lanes), (self.closed, LANES));
        for (at, (lane, twin)) in self.lanes.iter().zip(&self.twins).enumerate() {
            let seen = lane.snapshot();
            assert_eq!(
                (seen.state, seen.episode, seen.ended),
                (twin.state, twin.episode, twin.ended)
            );
            assert_eq!(seen.waiting.requests, self.waiting.iter().filter(|w| w.lane == at).count());
            assert_eq!(seen.retrying, self.retrying(at));
            assert_eq!(lane.is_buffering(), twin.state == LaneState::Buffering);
            let waits = &seen.counts.waits;
            let ends = [
                &waits.released,
                &waits.episode_too_long,
                &waits.evicted,
                &waits.window_exceeded,
                &waits.cancelled,
                &waits.closed,
            ];
            assert_eq!(ends.iter().map(|ended| ended.count).sum::<u64>(), twin.ends);
            assert_eq!(seen.counts.buffered, twin.buffered);
            assert_eq!(twin.buffered, twin.ends + seen.waiting.requests as u64);
        }
    }
}

fn play(ops: &[Op]) -> HashMap<&'static str, usize> {
    let limits = BufferLimits {
        requests: 8,
        bytes: 100,
        window: ms(1_000),
        max_failover_duration: ms(1_500),
        min_time_between_failovers: ms(30),
        drain_concurrency: 1,
    };
    let mut bench = Bench::new(limits);
    for op in ops {
        bench.run(op);
        bench.check();
    }
    bench.waiting.clear();
    bench.out.clear();
    assert_eq!(bench.buffer.snapshot().held, Load::default(), "everything was given back");
    bench.tally
}

fn config() -> ProptestConfig {
    // Debug builds shrink and check slowly; PROPTEST_CASES asks for more.
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig {
        cases: cases.unwrap_or(200),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn sequences_agree_with_the_naive_model(ops in proptest::collection::vec(op(), 1..250)) {
        play(&ops);
    }
}

/// The model test above means nothing if its sequences never get anywhere.
#[test]
fn the_sequences_reach_every_kind_of_outcome() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut sums: BTreeMap<&str, usize> = BTreeMap::new();
    for _ in 0..100 {
        let ops = proptest::collection::vec(op(), 250).new_tree(&mut runner).unwrap().current();
        for (kind, count) in play(&ops) {
            *sums.entry(kind).or_default() += count;
        }
    }
    println!("reached: {sums:?}");
    let kinds = ["released", "too long", "evicted", "late", "closed", "cancelled", "refused"];
    for kind in kinds.into_iter().chain(["sent again", "too soon", "dropped unseen"]) {
        let least = if kind == "closed" { 5 } else { 50 };
        assert!(sums.get(kind).is_some_and(|count| *count >= least), "{kind}: {sums:?}");
    }
}
