// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a request costs and writes: the action model of workload.md 6.3.

use precopy::sim::Rng;

use super::config::SiteConfig;
use super::layout::{GD_PAGES, scale};
use super::{Action, Request, RequestKind, STATIC_ASSETS};

/// Pages of a picture file, and of a document (workload.md 1.3): 671,614 and 129,585 bytes.
pub(crate) const PHOTO_PAGES: u64 = 164;
/// Pages of the document that comes with an event.
const DOCUMENT_PAGES: u64 = 32;
/// Pages of the heap that every request rewrites: stack 4, brk heap 60, arena head 26.
const PREFIX_PAGES: f64 = 90.0;
/// Pages anywhere in the heap that a request writes on top.
const STRAY_PAGES: u64 = 2;
/// Distinct private pages of an action (6.3, third column), for w = 200.
const PRIVATE: [f64; 7] = [175.0, 200.0, 220.0, 185.0, 210.0, 340.0, 360.0];
/// Writes to the kernel's pages (6.3, fourth column); on average [`KERNEL_MEAN`].
const KERNEL: [f64; 7] = [160.0, 110.0, 260.0, 120.0, 140.0, 300.0, 340.0];
const KERNEL_MEAN: f64 = 183.0;
/// Database time of an action in milliseconds (6.3, last column).
const DATABASE_MS: [f64; 7] = [20.0, 22.0, 45.0, 22.0, 49.0, 102.0, 151.0];
/// PHP requests of an action on average (6.3, second column), logouts and attendances included.
const PHP_REQUESTS: [f64; 7] = [1.0, 2.4, 2.0, 1.04, 2.0, 2.0, 2.0];
/// Other requests of an action on average.
const ASSETS: [f64; 7] = [2.9, 0.0, 4.5, 2.0, 0.0, 7.0, 7.0];
/// Processor time of a file that is sent as it is, in seconds.
const ASSET_CPU_S: f64 = 0.000_15;
/// Share of the work of signing up or announcing that showing the form is.
const FORM_SHARE: f64 = 0.1;

/// Pages written by a request, by where they lie.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Writes {
    /// Draws from the kernel's pages.
    pub(crate) kernel: u64,
    /// First pages of the heap.
    pub(crate) prefix: u64,
    /// Pages that follow these.
    pub(crate) run: u64,
    /// Pages anywhere in the heap.
    pub(crate) stray: u64,
    /// Fresh pages of the page cache.
    pub(crate) fresh: u64,
    /// Pages of the upload pool, cleared, then written, then freed.
    pub(crate) upload: u64,
}

impl Writes {
    pub(crate) fn total(self) -> u64 {
        self.kernel + self.prefix + self.run + self.stray + self.fresh + self.upload * 2
    }
}

/// What a request costs.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Demand {
    /// Processor time in seconds.
    pub(crate) cpu_s: f64,
    /// Time of the database in seconds, outside of this guest.
    pub(crate) database_s: f64,
    pub(crate) writes: Writes,
    /// Bytes of the answer's body.
    pub(crate) body_bytes: u32,
}

/// The key from which everything random about a request follows: the same for the same request,
/// whatever else happens, so that runs under different policies meet the same demands.
pub(crate) fn request_key(config: &SiteConfig, request: &Request) -> u64 {
    let user = Rng::new(config.seed ^ (u64::from(request.user) << 32)).next_u64();
    Rng::new(user ^ request.seq).next_u64()
}

/// A draw from a gamma distribution of integral shape and this mean.
fn gamma(rng: &mut Rng, shape: u32, mean: f64) -> f64 {
    // 1 - unit() is never 0.
    let product: f64 = (0..shape).map(|_| 1.0 - rng.unit()).product();
    -product.ln() * mean / f64::from(shape)
}

/// Share of an action's work that a request of this kind does. Over the action's requests shares
/// add up to 1 on average.
fn share(kind: RequestKind, action: Action) -> f64 {
    match kind {
        RequestKind::PersonForm | RequestKind::EventForm => FORM_SHARE,
        RequestKind::PersonPost | RequestKind::EventPost => 1.0 - FORM_SHARE,
        _ => 1.0 / PHP_REQUESTS[action.index()],
    }
}

impl Demand {
    /// Draws what this request costs.
    pub(crate) fn draw(config: &SiteConfig, request: &Request) -> Self {
        let mut rng = Rng::new(request_key(config, request));
        let body_bytes = body_bytes(config, request);
        if request.kind == RequestKind::Asset {
            // A static file: no PHP, no database, a few kernel pages.
            let cpu_s = gamma(&mut rng, 2, ASSET_CPU_S);
            let writes = Writes { kernel: 8, ..Writes::default() };
            return Self { cpu_s, database_s: 0.0, writes, body_bytes };
        }
        let (action, kind) = (request.action, request.kind);
        let at = action.index();
        let share = share(kind, action);
        // Requests of an action add up to a gamma distribution of shape 2.
        let whole = matches!(share, s if s > 0.8);
        let shape = if whole { 2 } else { 1 };
        let php_cpu_s = (config.cpu_s(action) - ASSETS[at] * ASSET_CPU_S).max(1e-5);
        let cpu_s = gamma(&mut rng, shape, php_cpu_s * share);
        let database_s = gamma(&mut rng, shape, DATABASE_MS[at] / 1e3 * share);
        Self { cpu_s, database_s, writes: writes(config, request, share), body_bytes }
    }
}

fn writes(config: &SiteConfig, request: &Request, share: f64) -> Writes {
    let at = request.action.index();
    let w = config.private_pages / 200.0;
    let pages = |n: f64| scale(1, n.max(1.0));
    let prefix = pages(PREFIX_PAGES * w);
    let run = pages(PRIVATE[at] * w).saturating_sub(prefix + STRAY_PAGES);
    let uploaded = |n| scale(n, config.upload_scale).max(1);
    let (fresh, upload) = match request.kind {
        RequestKind::TagList => (4, 0),
        RequestKind::Event => (2, 0),
        RequestKind::Photo => (uploaded(PHOTO_PAGES) + 2, 0),
        RequestKind::PersonPost => (uploaded(PHOTO_PAGES) * 2 + 2, uploaded(GD_PAGES)),
        RequestKind::EventPost => {
            (uploaded(PHOTO_PAGES) * 2 + 2 + uploaded(DOCUMENT_PAGES) * 2, uploaded(GD_PAGES))
        }
        // Three front pages in ten bring a page of the database's answer into the cache.
        RequestKind::Home => (u64::from(request.seq % 10 < 3), 0),
        _ => (0, 0),
    };
    let kernel = pages(KERNEL[at] * config.kernel_writes / KERNEL_MEAN * share);
    Writes { kernel, prefix, run, stray: STRAY_PAGES, fresh, upload }
}

/// Bytes of the answer's body: together 71 to 77 kB an operation (workload.md 1.2).
fn body_bytes(config: &SiteConfig, request: &Request) -> u32 {
    match request.kind {
        RequestKind::Home => 14_000,
        RequestKind::TagList => 12_000,
        RequestKind::Event => 10_000,
        RequestKind::Person => 8000,
        RequestKind::PersonForm | RequestKind::EventForm => 6000,
        RequestKind::PersonPost | RequestKind::EventPost => 1000,
        RequestKind::Login | RequestKind::Logout | RequestKind::TagPost | RequestKind::Attend => {
            300
        }
        RequestKind::Photo => {
            u32::try_from(scale(671_614, config.upload_scale)).unwrap_or(u32::MAX)
        }
        // Scripts and style sheets; the others are thumbnails.
        RequestKind::Asset if request.argument <= STATIC_ASSETS => 40_000,
        RequestKind::Asset => 5800,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(action: Action, kind: RequestKind, seq: u64) -> Request {
        Request { user: 3, seq, action, kind, argument: 1, body_bytes: 0 }
    }

    #[test]
    fn service_times_have_the_mean_of_the_action() {
        let config = SiteConfig::default();
        for (action, kinds) in [
            (Action::HomePage, &[RequestKind::Home][..]),
            (Action::TagSearch, &[RequestKind::TagPost, RequestKind::TagList]),
            (Action::AddPerson, &[RequestKind::PersonForm, RequestKind::PersonPost]),
        ] {
            let n = 20_000;
            let (mut cpu, mut database) = (0.0, 0.0);
            for seq in 0..n {
                for (extra, kind) in kinds.iter().enumerate() {
                    let seq = seq * 2 + extra as u64;
                    let demand = Demand::draw(&config, &request(action, *kind, seq));
                    cpu += demand.cpu_s;
                    database += demand.database_s;
                }
            }
            let mean = cpu / n as f64 + ASSETS[action.index()] * ASSET_CPU_S;
            assert!((mean / config.cpu_s(action) - 1.0).abs() < 0.03, "{action} {mean}");
            let database = database / n as f64 * 1e3;
            assert!((database / DATABASE_MS[action.index()] - 1.0).abs() < 0.03, "{database}");
        }
    }

    #[test]
    fn a_request_always_costs_the_same() {
        let config = SiteConfig::default();
        let home = request(Action::HomePage, RequestKind::Home, 9);
        assert_eq!(Demand::draw(&config, &home), Demand::draw(&config, &home));
        let other = Request { seq: 10, ..home };
        assert_ne!(Demand::draw(&config, &home), Demand::draw(&config, &other));
    }

    #[test]
    fn pages_are_those_of_the_table() {
        let config = SiteConfig { kernel_writes: KERNEL_MEAN, ..SiteConfig::default() };
        let of = |action, kind| Demand::draw(&config, &request(action, kind, 5)).writes;
        let home = of(Action::HomePage, RequestKind::Home);
        assert_eq!(home.prefix + home.run + home.stray, 175);
        assert_eq!(home.kernel, 160);
        let event = of(Action::AddEvent, RequestKind::EventPost);
        assert_eq!((event.fresh, event.upload), (164 + 164 + 2 + 64, 1220));
        assert_eq!(of(Action::PersonDetail, RequestKind::Photo).fresh, 166);
    }
}
