// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Source and destination in virtual time over a modelled link.
//!
//! The link is one queue that all channels share: an item leaves when the items before it have
//! left, takes its bytes over the bandwidth, and arrives one latency later. Channels whose limits
//! the link carries all at once are queues of their own. Nothing is drawn at random outside the
//! workload's own generator, and events of the same time happen in the order in which they were
//! planned: a plan and a seed always give the same run (R8).

use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::checker::{Checker, End};
use super::destination::{DestinationCosts, DestinationFaults, DestinationHost};
use super::guest::{Runner, VirtualGuest};
use super::source::{Costs, Job, Keep, SourceFaults, SourceHost, WireItem};
use crate::session::{DestinationInput, SourceInput, SourcePhase};
use crate::units::{ChannelId, PageIndex, PageSize, Tick};

mod curve;
mod encoder;
mod event_hash;
mod link;
#[cfg(test)]
mod order_tests;
mod plan;
mod queue;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod trace_tests;

pub use curve::{CurvePoint, NeverStop};
pub use encoder::EncoderModel;
pub use link::{Link, LinkChange, LinkHabits};
pub use plan::{Disturbance, PairPlan, PairResult};

use encoder::Weigher;
use event_hash::EventHash;
use link::{Share, Wire};
use queue::{Event, Queue};

/// Virtual time after which a run counts as hung, beside that in which all memory is sent so often.
const LONGEST_RUN: Duration = Duration::from_secs(20 * 3600);
const SENDINGS: u64 = 100;
/// Least time from one sample to the next, so that a curve stays within some GiB at the worst.
const SHORTEST_SAMPLE: Duration = Duration::from_millis(1);

#[derive(Debug)]
struct Pair<'g> {
    source: SourceHost,
    destination: DestinationHost,
    runner: Runner<'g>,
    end_of_time: Tick,
    now: Tick,
    wire: Wire,
    per_page: Duration,
    weigher: Option<Weigher>,
    queue: Queue,
    busy: Vec<bool>,
    cut: Vec<bool>,
    unreachable: bool,
    silent: bool,
    disturbed: bool,
    source_free: Tick,
    check: Checker,
    log: EventHash,
    sample_every: Option<Duration>,
    curve: Vec<CurvePoint>,
}

/// Runs a plan, with the plan's workload as the guest, to its end.
#[must_use]
pub fn run(plan: PairPlan) -> PairResult {
    let mut workload = plan.workload.clone();
    run_guest(plan, &mut workload)
}

/// Runs a plan with any guest to its end.
///
/// The guest's time begins at [`PairPlan::starts_at`] and has come exactly to
/// [`PairResult::resumed_at`] when this returns, or to [`PairResult::ended_at`] if the destination
/// did not take over: whoever owns the guest goes on from there.
#[must_use]
pub fn run_guest(plan: PairPlan, guest: &mut dyn VirtualGuest) -> PairResult {
    let now = plan.starts_at;
    let mut pair = Pair::new(plan, guest);
    pair.follow_source(now, |host, destination_runs, check, guest_runs| {
        host.carry_out(now, destination_runs, check, guest_runs)
    });
    while pair.step() {}
    pair.result()
}

impl<'g> Pair<'g> {
    fn new(plan: PairPlan, guest: &'g mut dyn VirtualGuest) -> Self {
        let now = plan.starts_at;
        let pages = plan.source.regions.pages();
        let channels = usize::from(plan.source.channels);
        let mut check = Checker::default();
        let mut memory = plan.memory_at_start(guest, &mut check);
        if plan.sample_every.is_some() {
            memory.follow_stale();
        }
        let page_bytes = plan.source.regions.page_size();
        debug_assert!(page_bytes == PageSize::BASE, "the model's frames hold 4 KiB pages");
        let two_phase = plan.source.tracker_rearms;
        let mut source = SourceHost::new(now, plan.source, plan.strategy, memory, two_phase);
        source.log.keep = if plan.keep_log { Keep::All } else { Keep::Ends };
        source.faults = plan.source_faults;
        source.tracker.short = plan.short_harvest;
        source.costs = Costs {
            pause: plan.pause_cost,
            harvest: plan.harvest_cost,
            per_dirty_page: plan.dirty_page_cost,
            export: plan.state_cost,
        };
        let mut destination = DestinationHost::new(now, plan.destination);
        destination.faults = plan.destination_faults;
        destination.costs = DestinationCosts {
            import: plan.state_cost,
            digest: Duration::from_micros(pages / 4),
            resume: plan.state_cost,
        };
        let weigher = Weigher::new(plan.encoder, guest, pages);
        let sent = pages * u64::from(PageSize::BASE.bytes_u32()) * SENDINGS;
        let mut pair = Self {
            source,
            destination,
            runner: Runner::new(guest, now, plan.fault_cost),
            end_of_time: now + LONGEST_RUN + plan.link.time_for(sent),
            now,
            wire: Wire::new(now, plan.link, &plan.link_habits, channels),
            per_page: plan.per_page,
            weigher,
            queue: Queue::default(),
            busy: vec![false; channels],
            cut: vec![false; channels],
            unreachable: false,
            silent: false,
            disturbed: false,
            source_free: now,
            check,
            log: EventHash::default(),
            sample_every: plan.sample_every.map(|every| every.max(SHORTEST_SAMPLE)),
            curve: Vec::new(),
        };
        if pair.sample_every.is_some() {
            pair.plan(now, Event::Sample);
        }
        for (at, disturbance) in plan.disturbances {
            pair.plan(at, Event::Disturb(disturbance));
        }
        pair
    }

    fn plan(&mut self, at: Tick, event: Event) {
        self.queue.plan(at, event);
    }

    /// One event or timeout; `false` when nothing can happen any more.
    fn step(&mut self) -> bool {
        let event = self.queue.next_at();
        let alive = |alive: bool, t: Option<Tick>| if alive { t } else { None };
        let source = alive(self.source.alive, self.source.session.poll_timeout())
            .map(|t| t.max(self.source_free));
        let destination =
            alive(self.destination.alive && !self.silent, self.destination.session.poll_timeout());
        let Some(now) = Tick::earlier(Tick::earlier(event, source), destination) else {
            return false;
        };
        if now > self.end_of_time {
            // What is left on a link that never came back moves nobody any more.
            if source.is_some() || destination.is_some() {
                self.check.breach("liveness", format!("still going after {now:?}"));
            }
            return false;
        }
        self.now = now;
        if event == Some(now) {
            if let Some(event) = self.queue.pop() {
                self.happen(now, event);
            }
        } else if source == Some(now) {
            self.follow_source(now, |host, destination_runs, check, guest_runs| {
                host.handle_timeout(now, destination_runs, check, guest_runs)
            });
        } else {
            self.destination.handle_timeout(now, &self.source, &mut self.check);
            self.after_destination();
        }
        self.check.runners(
            self.source.alive && self.source.guest.running,
            self.destination.alive && self.destination.running,
        );
        true
    }

    fn happen(&mut self, now: Tick, event: Event) {
        if event == Event::Sample {
            return self.sample(now);
        }
        now.hash(&mut self.log);
        std::mem::discriminant(&event).hash(&mut self.log);
        match event {
            Event::Sender(channel) => self.sender(now, channel),
            Event::Sent(channel, counts) => {
                self.busy[channel.as_usize()] = false;
                self.tell_source(now, SourceInput::BatchSent { channel, counts });
            }
            Event::Arrive(channel, item) => {
                if self.destination.alive && !self.silent {
                    let taken =
                        self.destination.deliver(now, channel, item, &self.source, &mut self.check);
                    if let Some(frame) = taken {
                        self.source.guest.held(&frame);
                    }
                    self.after_destination();
                }
            }
            Event::Back(message) => self.tell_source(now, SourceInput::Message(message)),
            Event::Digested => {
                let digest = self.source.digest();
                self.tell_source(now, SourceInput::Digested(digest));
            }
            Event::QueryArrives => self.query(now),
            Event::Answer(fate) => self.tell_source(now, SourceInput::Answered(fate)),
            Event::SourceNotices(channel) => {
                let reason = "connection reset".to_owned();
                self.tell_source(now, SourceInput::ChannelLost { channel, reason });
            }
            Event::DestinationNotices(channel) => {
                if !self.silent {
                    let reason = "connection reset".to_owned();
                    let input = DestinationInput::ChannelLost { channel, reason };
                    self.destination.handle(now, input, &self.source, &mut self.check);
                    self.after_destination();
                }
            }
            Event::Disturb(disturbance) => self.disturb(now, disturbance),
            Event::Sample => {}
        }
    }

    /// Lets the source act, with the guest running while it is busy, and plans what follows.
    fn follow_source(
        &mut self,
        now: Tick,
        act: impl FnOnce(
            &mut SourceHost,
            bool,
            &mut Checker,
            &mut dyn FnMut(&mut SourceHost, Tick),
        ) -> Tick,
    ) {
        let Self { source, runner, check, destination, .. } = self;
        let resumed_at = destination.resumed_at;
        let mut guest_runs = |host: &mut SourceHost, until: Tick| {
            runner.run(host, until.min(last_moment(resumed_at, host, until)));
        };
        let now = now.max(self.source_free);
        guest_runs(source, now);
        self.source_free = act(source, destination.running, check, &mut guest_runs);
        self.after_source();
    }

    fn tell_source(&mut self, now: Tick, input: SourceInput<'_>) {
        let now = now.max(self.source_free);
        self.follow_source(now, |host, destination_runs, check, guest_runs| {
            host.handle(now, input, destination_runs, check, guest_runs)
        });
    }

    fn after_source(&mut self) {
        let now = self.source_free;
        for channel in 0..self.busy.len() {
            if !self.busy[channel] && !self.source.jobs[channel].is_empty() {
                self.busy[channel] = true;
                let Ok(id) = u8::try_from(channel) else { continue };
                self.plan(now, Event::Sender(ChannelId::new(id)));
            }
        }
        if std::mem::take(&mut self.source.digest_due) {
            let pages = self.source.guest.versions.pages();
            self.plan(now + Duration::from_micros(pages / 4), Event::Digested);
        }
        if std::mem::take(&mut self.source.wants_to_ask) {
            if self.unreachable {
                self.plan(now + Duration::from_secs(1), Event::Answer(None));
            } else {
                self.plan(now + self.wire.link.latency * 2, Event::QueryArrives);
            }
        }
    }

    fn after_destination(&mut self) {
        if self.destination.outbox.is_empty() {
            return;
        }
        let mut outbox = std::mem::take(&mut self.destination.outbox);
        for (leaves, message) in outbox.drain(..).filter(|_| !self.cut[0]) {
            let back = self.wire.send_back(leaves);
            self.queue.plan(back, Event::Back(message));
        }
        // For its memory.
        self.destination.outbox = outbox;
    }

    /// A channel's sender takes its next job.
    fn sender(&mut self, now: Tick, channel: ChannelId) {
        let at = channel.as_usize();
        self.let_run(now);
        let pages = match self.source.jobs[at].front() {
            Some(Job::Read { batch, .. }) => batch.pages(),
            Some(Job::Send(_)) => 0,
            None => {
                self.busy[at] = false;
                return;
            }
        };
        let Some((mut item, mut sent)) = self.source.sender_item(channel) else { return };
        if let (WireItem::Pages(frame), Some(weigher)) = (&mut item, &mut self.weigher) {
            weigher.weigh(frame, self.runner.guest);
            sent = Some(frame.counts());
        }
        let ready = now + self.per_page * u32::try_from(pages).unwrap_or(u32::MAX);
        let taken = self.transmit(ready, channel, item);
        match sent {
            Some(counts) => self.plan(taken, Event::Sent(channel, counts)),
            None => self.plan(taken, Event::Sender(channel)),
        }
    }

    /// Lets the guest run until `until`, or as far as it may run here.
    fn let_run(&mut self, until: Tick) {
        let last = last_moment(self.destination.resumed_at, &self.source, until);
        self.runner.run(&mut self.source, until.min(last));
    }

    /// Hands an item to the link; says when the sender has done with it.
    fn transmit(&mut self, ready: Tick, channel: ChannelId, item: WireItem) -> Tick {
        let service = self.runner.guest.service_bytes_per_s();
        let share = Share { service_bytes_per_s: service, cap_bytes_per_s: self.source.rate };
        let (taken, arrives) = self.wire.send(ready, channel.as_usize(), item.bytes(), share);
        if !self.cut[channel.as_usize()] {
            self.plan(arrives, Event::Arrive(channel, item));
        }
        taken
    }

    /// Notes what is true, and when to look again. Nothing hangs on it, so it keeps no run alive.
    fn sample(&mut self, now: Tick) {
        if !self.source.alive || self.source.finished.is_some() {
            return;
        }
        self.let_run(now);
        debug_assert!(self.stale_is_true(), "the count of stale pages is off");
        self.curve.push(CurvePoint {
            at: now.max(self.runner.until()),
            stale_pages: self.source.guest.stale_pages(),
            sent_wire_bytes: self.source.session.totals().wire_bytes,
            guest_lost: self.runner.lost(),
        });
        if let Some(every) = self.sample_every {
            self.plan(now + every, Event::Sample);
        }
    }

    /// Compares the count of stale pages with memory, for small guests.
    fn stale_is_true(&self) -> bool {
        let (here, there) = (&self.source.guest.versions, &self.destination.versions);
        let stale = |(page, version): &(PageIndex, u32)| there.get(*page) != *version;
        here.pages() > 4096
            || here.iter().filter(stale).count() as u64 == self.source.guest.stale_pages()
    }

    fn query(&mut self, now: Tick) {
        let fate = if self.silent {
            None
        } else {
            let fate = self.destination.query(now, &self.source, &mut self.check);
            self.after_destination();
            Some(fate)
        };
        let answer = fate.filter(|_| !self.unreachable);
        self.plan(now + self.wire.link.latency, Event::Answer(answer));
    }

    fn disturb(&mut self, now: Tick, disturbance: Disturbance) {
        self.disturbed = true;
        match disturbance {
            Disturbance::Lose(channel) => self.lose(now, usize::from(channel)),
            Disturbance::CutLink => (0..self.cut.len()).for_each(|c| self.lose(now, c)),
            Disturbance::CutForGood => {
                self.unreachable = true;
                (0..self.cut.len()).for_each(|c| self.lose(now, c));
            }
            Disturbance::Cancel => self.tell_source(now, SourceInput::Cancel),
            Disturbance::CancelDestination => {
                let input = DestinationInput::Cancel;
                self.destination.handle(now, input, &self.source, &mut self.check);
                self.after_destination();
            }
            Disturbance::KillSource => {
                self.source.kill();
                (0..self.cut.len()).for_each(|c| self.lose(now, c));
            }
            Disturbance::KillDestination => {
                self.destination.kill();
                (0..self.cut.len()).for_each(|c| self.lose(now, c));
            }
            Disturbance::Silence => self.silent = true,
        }
    }

    /// Both ends notice a broken channel one latency later; what is on its way still arrives.
    fn lose(&mut self, now: Tick, channel: usize) {
        if std::mem::replace(&mut self.cut[channel], true) {
            return;
        }
        if let Ok(id) = u8::try_from(channel).map(ChannelId::new) {
            let noticed = now.max(self.wire.free()) + self.wire.link.latency * 2;
            self.plan(noticed, Event::SourceNotices(id));
            self.plan(noticed, Event::DestinationNotices(id));
        }
    }

    fn result(mut self) -> PairResult {
        let ended_at = self.source.finished_at.unwrap_or(self.now);
        self.let_run(self.destination.resumed_at.unwrap_or(ended_at));
        self.runner.report(&mut self.check);
        let planned = self.source.faults != SourceFaults::default()
            || self.destination.faults != DestinationFaults::default()
            || self.source.tracker.short
            || self.wire.has_outage();
        self.check.ended(&End {
            outcome: self.source.finished,
            source_alive: self.source.alive,
            source_runs: self.source.guest.running,
            destination_alive: self.destination.alive && !self.silent,
            destination_over: self.destination.over(),
            destination_took_over: self.destination.took_over,
            undisturbed: !self.disturbed && !planned && !self.source.gave_up,
        });
        debug_assert!(
            !self.source.alive || self.source.session.phase() == SourcePhase::Ended,
            "a run ends with its session"
        );
        let log = std::mem::take(&mut self.source.log);
        PairResult {
            outcome: self.source.finished,
            failure: self.source.session.failure().map(str::to_owned),
            gave_up: self.source.gave_up,
            rounds: log.rounds,
            decisions: log.decisions,
            decided: log.decided,
            totals: self.source.session.totals(),
            shadows: self.source.session.shadows(),
            downtime: match (self.source.pause_began, self.destination.resumed_at) {
                (Some(paused), Some(resumed)) => Some(resumed.since(paused)),
                _ => None,
            },
            expected_downtime: log.expected_downtime,
            paused_at: self.source.pause_began,
            resumed_at: self.destination.resumed_at,
            ended_at,
            guest_lost: self.runner.lost(),
            curve: self.curve,
            guest_writes: self.source.guest.writes,
            log_hash: self.log.finish(),
            violations: self.check.violations().to_vec(),
        }
    }
}

/// The last moment for which the pair is the one that runs the guest: its resume elsewhere, or
/// the end of the attempt; `until` if neither has come.
fn last_moment(resumed_at: Option<Tick>, source: &SourceHost, until: Tick) -> Tick {
    resumed_at.or(source.finished_at).unwrap_or(until)
}
