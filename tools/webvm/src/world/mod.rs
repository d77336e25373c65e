// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The site and its users in virtual time: one model on the simulator's clock.
//!
//! A request takes a moment to the guest, waits at the switch while the guest stands still, and
//! its answer takes a moment back and the time that its bytes need. The guest is a
//! [`VirtualGuest`], so the production session migrates it; before and after, the world goes on
//! by itself.

use std::collections::VecDeque;
use std::time::Duration;

use precopy::bitmap::DenseBitmap;
use precopy::sim::VirtualGuest;
use precopy::units::{PageIndex, RequestLoad, Throttle, Tick};

use crate::site::{
    Counters, ModelMemory, Request, RequestKind, Response, Site, SiteAudit, SiteConfig,
    SiteConfigError,
};
use crate::sla::Probe;
use crate::users::{Users, UsersConfig, UsersError};

#[cfg(test)]
mod tests;

/// Pages that the guest may write between two looks at the world.
const BUDGET: u64 = u64::MAX;
/// Over which time the rate of service traffic is averaged.
const RATE_WINDOW_S: f64 = 1.0;

/// A world could not be made.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorldError {
    /// The site's configuration.
    #[error(transparent)]
    Site(#[from] SiteConfigError),
    /// The users' configuration.
    #[error(transparent)]
    Users(#[from] UsersError),
}

/// The network between users and guest.
#[derive(Clone, Copy, PartialEq, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a plain pair")]
pub struct ServiceNetwork {
    /// One-way latency.
    pub latency: Duration,
    /// Bytes per second of the users' link.
    pub bandwidth_bytes_per_s: f64,
}

impl Default for ServiceNetwork {
    fn default() -> Self {
        Self { latency: Duration::from_micros(100), bandwidth_bytes_per_s: 117.5e6 }
    }
}

/// The site, its memory, its users, and the network between them.
#[derive(Debug)]
pub struct World {
    site: Site,
    memory: ModelMemory,
    users: Users,
    network: ServiceNetwork,
    now: Tick,
    /// Share of the processor that a migration takes from the guest.
    tax: f64,
    /// The number of each user's connection; 0 for none.
    connections: Vec<u32>,
    connections_made: u32,
    to_site: VecDeque<(Tick, (u32, Request))>,
    to_users: VecDeque<(Tick, Response)>,
    service_rate: f64,
    counted_bytes: u64,
    counted_at: Tick,
    probing: Option<Duration>,
    next_probe: Tick,
    waiting_probes: Vec<Tick>,
    probes: Vec<Probe>,
    written: Vec<PageIndex>,
    /// How often each tag was searched for, if that is noted.
    tags: Vec<u64>,
}

impl World {
    /// A world in which nobody has done anything yet.
    ///
    /// # Errors
    /// [`WorldError`] if a configuration makes no sense.
    pub fn new(
        site: SiteConfig,
        users: UsersConfig,
        network: ServiceNetwork,
    ) -> Result<Self, WorldError> {
        let mut site = Site::new(site)?;
        let mut memory = ModelMemory::new(site.layout());
        site.boot(&mut memory);
        site.keep_answers();
        let users = Users::new(users)?;
        Ok(Self {
            connections: vec![0; users.config().users as usize],
            connections_made: 0,
            site,
            memory,
            users,
            network,
            now: Tick::ZERO,
            tax: 0.0,
            to_site: VecDeque::new(),
            to_users: VecDeque::new(),
            service_rate: 0.0,
            counted_bytes: 0,
            counted_at: Tick::ZERO,
            probing: None,
            next_probe: Tick::ZERO,
            waiting_probes: Vec::new(),
            probes: Vec::new(),
            written: Vec::new(),
            tags: Vec::new(),
        })
    }

    /// The world's time.
    #[must_use]
    pub fn now(&self) -> Tick {
        self.now
    }

    /// The users, for their samples and journals.
    pub fn users(&mut self) -> &mut Users {
        &mut self.users
    }

    /// From now on, counts how often each tag is searched for.
    pub fn note_tags(&mut self) {
        let tags = self.users.config().data().tags;
        self.tags = vec![0; usize::try_from(tags).unwrap_or(0)];
    }

    /// How often each tag was searched for.
    #[must_use]
    pub fn tag_counts(&self) -> &[u64] {
        &self.tags
    }

    /// The site.
    #[must_use]
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// Guest memory.
    pub fn memory(&mut self) -> &mut ModelMemory {
        &mut self.memory
    }

    /// Compares guest memory with what the users know.
    #[must_use]
    pub fn audit(&self) -> SiteAudit {
        self.site.audit(&self.memory, self.users.acknowledged(), &self.users.sessions())
    }

    /// What the site has counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.site.counters()
    }

    /// Sends a probe each `period` from now on, or none.
    pub fn probe(&mut self, period: Option<Duration>) {
        self.probing = period;
        self.next_probe = self.now;
    }

    /// The probes that were answered since the last call.
    pub fn take_probes(&mut self) -> Vec<Probe> {
        std::mem::take(&mut self.probes)
    }

    /// The guest runs until `until`, and nobody wants to know what it writes.
    pub fn run_until(&mut self, until: Tick) {
        self.memory.keep_written(false);
        self.advance(until, true, Throttle::NONE, &mut |_| {});
    }

    /// The guest runs until `until` and says what it writes.
    pub fn run_tracked(&mut self, until: Tick, write: &mut dyn FnMut(PageIndex)) {
        self.memory.keep_written(true);
        self.advance(until, true, Throttle::NONE, write);
    }

    /// Before a migration, which takes this share of the guest's processor (0.12 to 0.2 under
    /// Xen, Clark 2005). Its clock is the world's.
    pub fn begin_migration(&mut self, tax: f64) {
        self.tax = tax.clamp(0.0, 0.95);
        self.memory.keep_written(true);
    }

    /// After it, wherever the guest is now.
    pub fn end_migration(&mut self) {
        self.tax = 0.0;
        self.memory.keep_written(false);
    }

    fn next(&self, running: bool) -> Option<Tick> {
        let site = if running { self.site.poll_timeout() } else { None };
        let arrival = self.to_site.front().filter(|_| running).map(|(at, _)| *at);
        let answer = self.to_users.front().map(|(at, _)| *at);
        let probe = self.probing.map(|_| self.next_probe);
        [site, arrival, answer, probe, self.users.poll_timeout()].into_iter().flatten().min()
    }

    fn advance(
        &mut self,
        until: Tick,
        running: bool,
        throttle: Throttle,
        write: &mut dyn FnMut(PageIndex),
    ) {
        let speed = (1.0 - self.tax) * f64::from(100 - throttle.get()) / 100.0;
        self.site.set_speed(speed);
        if running {
            let now = self.now;
            self.probes
                .extend(self.waiting_probes.drain(..).map(|sent| Probe::on_time(sent, Some(now))));
        }
        loop {
            let at = self.next(running).unwrap_or(until).max(self.now).min(until);
            self.now = at;
            if running {
                self.site.run(at, BUDGET, &mut self.memory);
                self.collect();
                self.deliver(at);
                self.memory.take_written(&mut self.written);
                self.written.iter().for_each(|page| write(*page));
            } else {
                self.site.stand_still(at);
            }
            self.serve_users(at);
            self.serve_prober(at, running);
            if at >= until && self.next(running).is_none_or(|next| next > until) {
                break;
            }
        }
        self.measure_service();
    }

    /// What the site has answered goes on its way to the users.
    fn collect(&mut self) {
        let mut last = 0;
        while let Some(out) = self.site.outgoing(last, &self.memory) {
            last = out.number;
        }
        if last > 0 {
            self.site.acknowledge(last, &mut self.memory);
        }
        while let Some((_, answer)) = self.site.take_answer() {
            let bytes = f64::from(answer.body_bytes) + 200.0;
            let takes = Duration::from_secs_f64(bytes / self.network.bandwidth_bytes_per_s);
            let at = self.now + self.network.latency + takes;
            // Answers of different length may overtake each other; users do not mind which of two
            // comes first, but a queue must be in order.
            let at = self.to_users.back().map_or(at, |(last, _)| at.max(*last));
            self.to_users.push_back((at, answer));
        }
    }

    fn deliver(&mut self, now: Tick) {
        while let Some((number, request)) = pop_due(&mut self.to_site, now) {
            // A client that has given up has closed its connection: the request dies with it.
            let user = request.user as usize;
            if self.connections.get(user) == Some(&number) {
                let taken = self.site.request(number, request, &mut self.memory);
                debug_assert!(taken.is_ok(), "{request:?}: {taken:?}");
            }
        }
    }

    fn serve_users(&mut self, now: Tick) {
        while let Some(answer) = pop_due(&mut self.to_users, now) {
            self.users.handle_response(now, &answer);
        }
        while let Some(user) = self.users.poll_expired(now) {
            if let Some(number) = self.connections.get_mut(user as usize) {
                self.site.close(std::mem::take(number), &mut self.memory);
            }
        }
        while let Some(request) = self.users.poll_request(now) {
            if request.kind == RequestKind::TagPost
                && let Some(count) =
                    usize::try_from(request.argument).ok().and_then(|t| self.tags.get_mut(t))
            {
                *count += 1;
            }
            let Some(number) = self.connections.get_mut(request.user as usize) else { continue };
            if *number == 0 {
                self.connections_made += 1;
                *number = self.connections_made;
                let opened = self.site.open(*number, &mut self.memory);
                debug_assert!(opened.is_ok(), "{opened:?}");
            }
            self.to_site.push_back((now + self.network.latency, (*number, request)));
        }
    }

    fn serve_prober(&mut self, now: Tick, running: bool) {
        let Some(period) = self.probing else { return };
        while self.next_probe <= now {
            let sent = self.next_probe;
            self.next_probe += period;
            if running {
                self.probes.push(Probe::on_time(sent, Some(sent)));
            } else {
                self.waiting_probes.push(sent);
            }
        }
    }

    fn measure_service(&mut self) {
        let time = self.now.since(self.counted_at).as_secs_f64();
        if time <= 0.0 {
            return;
        }
        let bytes = self.site.counters().sent_bytes;
        #[expect(clippy::cast_precision_loss, reason = "bytes of a moment")]
        let rate = (bytes - self.counted_bytes) as f64 / time;
        self.service_rate += (rate - self.service_rate) * (1.0 - (-time / RATE_WINDOW_S).exp());
        (self.counted_bytes, self.counted_at) = (bytes, self.now);
    }
}

/// The first message of a queue, if it is due.
fn pop_due<T>(queue: &mut VecDeque<(Tick, T)>, now: Tick) -> Option<T> {
    let due = queue.front().is_some_and(|(at, _)| *at <= now);
    if due { queue.pop_front().map(|(_, message)| message) } else { None }
}

impl VirtualGuest for World {
    fn run(
        &mut self,
        until: Tick,
        running: bool,
        throttle: Throttle,
        write: &mut dyn FnMut(PageIndex),
    ) {
        self.advance(until, running, throttle, write);
    }

    fn service_bytes_per_s(&self) -> f64 {
        self.service_rate
    }

    fn populated(&self) -> Option<DenseBitmap> {
        Some(self.memory.populated())
    }

    fn requests(&self) -> Option<RequestLoad> {
        let (in_flight, answered) = (self.site.requests_in_flight(), self.site.counters().answered);
        Some(RequestLoad { in_flight, answered })
    }
}
