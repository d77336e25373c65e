// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One user: what an action is made of, and what the client remembers between actions.

use std::collections::VecDeque;

use precopy::sim::Rng;
use rand_distr::{Distribution, Zipf};
use rand_pcg::Pcg64Mcg;

use crate::site::{Action, LINKS_MAX, RequestKind, Response, STATIC_ASSETS, thumbnail};

use super::config::{
    DOCUMENT_BYTES, DataScale, PICTURE_BYTES, Popularity, UsersConfig, UsersError,
};

/// Users log out before they log in again in this share of cases (workload.md, section 6.3).
const LOGOUT_SHARE: f64 = 0.4;
/// A logged-on user attends the event that it looks at in this share of cases (section 1.1).
const ATTEND_SHARE: f64 = 0.1;
/// Static files of the front page, fetched once in a session that started cold.
const HOME_STATICS: u64 = 12;
/// Static files of an event's page that the front page does not have.
const EVENT_STATICS: u64 = 8;
/// Static files of the two forms: the editor's script and what it loads.
const FORM_STATICS: u64 = 13;
/// Chance of each of ten thumbnails to be fetched. With the static files of the share of cold
/// sessions by default, the means are those of section 6.3: 2.9 on the front page, 4.5 in a list.
const HOME_IMAGE: f64 = 0.223;
const LIST_IMAGE: f64 = 0.45;
/// An event's page has its own picture, and in this share of cases another.
const EVENT_IMAGE: f64 = 0.5;
/// Mean of the exponential distribution of a new event's tag, as a share of all (section 1.2).
const TAG_MEAN_SHARE: f64 = 0.1;

/// What all users share: the data and how it is asked for.
#[derive(Debug)]
pub(super) struct World {
    pub(super) data: DataScale,
    users: u64,
    cold_share: f64,
    picture_bytes: u32,
    document_bytes: u32,
    zipf: Option<[Zipf<f64>; 3]>,
}

impl World {
    pub(super) fn new(config: &UsersConfig) -> Result<Self, UsersError> {
        let data = config.data();
        #[expect(clippy::cast_precision_loss, reason = "at most 2 million records")]
        let zipf = match config.popularity {
            Popularity::Olio => None,
            Popularity::Zipf(s) => {
                let law = |records: u64| {
                    Zipf::new(records as f64, s).map_err(|_| UsersError::Bounds {
                        name: "popularity",
                        expected: "zipf:S with an exponent from 0 to 4",
                    })
                };
                Some([law(data.persons)?, law(data.tags)?, law(data.events)?])
            }
        };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "scaled down")]
        let scaled = |bytes: u32| ((f64::from(bytes) * config.upload_scale) as u32).max(1);
        Ok(Self {
            data,
            users: u64::from(config.users),
            cold_share: config.cold_share,
            picture_bytes: scaled(PICTURE_BYTES),
            document_bytes: scaled(DOCUMENT_BYTES),
            zipf,
        })
    }

    /// Any of `records`, from 1, all alike or by the law with this number.
    fn draw(&self, law: usize, records: u64, rng: &mut Rng) -> u64 {
        let Some(zipf) = &self.zipf else { return 1 + rng.below(records) };
        // Both halves: with a constant low one, a single draw is visibly not uniform.
        let halves = [rng.next_u64(), rng.next_u64()].map(u128::from);
        let mut random = Pcg64Mcg::new((halves[0] << 64) | halves[1]);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a whole number from 1 to the number of records"
        )]
        let rank = zipf[law].sample(&mut random) as u64;
        rank.clamp(1, records)
    }

    fn person(&self, rng: &mut Rng) -> u64 {
        self.draw(0, self.data.persons, rng)
    }

    fn tag(&self, rng: &mut Rng) -> u64 {
        self.draw(1, self.data.tags, rng)
    }

    fn event(&self, rng: &mut Rng) -> u64 {
        self.draw(2, self.data.events, rng)
    }

    /// The tag of a new event: exponential over all tags.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "at most 5000 tags"
    )]
    fn new_tag(&self, rng: &mut Rng) -> u64 {
        let mean = self.data.tags as f64 * TAG_MEAN_SHARE;
        (1 + (-mean * (1.0 - rng.unit()).ln()) as u64).min(self.data.tags)
    }
}

/// A request to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Step {
    pub(super) kind: RequestKind,
    pub(super) argument: u64,
    pub(super) body_bytes: u32,
}

/// One user's client.
#[derive(Debug)]
pub(super) struct Session {
    user: u64,
    pub(super) rng: Rng,
    logged_on: bool,
    /// Pages whose static files this session still has to fetch: front, event, form.
    cold: [bool; 3],
    links: [u32; LINKS_MAX],
    link_count: usize,
    /// The event of the page that is being looked at.
    event: u64,
    steps: VecDeque<Step>,
}

impl Session {
    pub(super) fn new(world: &World, user: u32, mut rng: Rng) -> Self {
        let cold = [rng.unit() < world.cold_share; 3];
        Self {
            user: u64::from(user),
            rng,
            logged_on: false,
            cold,
            links: [0; LINKS_MAX],
            link_count: 0,
            event: 0,
            steps: VecDeque::new(),
        }
    }

    /// Lays out what an action begins with; what depends on the pages comes with their answers.
    pub(super) fn begin(&mut self, world: &World, action: Action) {
        self.steps.clear();
        match action {
            Action::HomePage => self.push(RequestKind::Home, 0),
            Action::Login => {
                if self.logged_on && self.rng.unit() < LOGOUT_SHARE {
                    self.push(RequestKind::Logout, 0);
                }
                let person = self.rng.below(100) * world.users + self.user + 1;
                self.push(RequestKind::Login, person);
                self.push(RequestKind::Home, 0);
            }
            Action::TagSearch => {
                let tag = world.tag(&mut self.rng);
                self.push(RequestKind::TagPost, tag);
                self.push(RequestKind::TagList, tag);
            }
            Action::EventDetail => {
                self.event = self.choose_event(world);
                self.push(RequestKind::Event, self.event);
            }
            Action::PersonDetail => {
                let person = world.person(&mut self.rng);
                self.push(RequestKind::Person, person);
                self.push(RequestKind::Photo, person);
            }
            Action::AddPerson => self.push(RequestKind::PersonForm, 0),
            Action::AddEvent => self.push(RequestKind::EventForm, 0),
        }
    }

    /// Any link of the last list; any event at all where there was none, or with Zipf's law.
    fn choose_event(&mut self, world: &World) -> u64 {
        if world.zipf.is_some() || self.link_count == 0 {
            return world.event(&mut self.rng);
        }
        let at = self.rng.below(self.link_count as u64);
        usize::try_from(at).ok().and_then(|at| self.links.get(at)).map_or(1, |link| (*link).into())
    }

    /// Takes over what a page says, and lays out the requests that follow from it.
    pub(super) fn answered(
        &mut self,
        world: &World,
        action: Action,
        kind: RequestKind,
        answer: &Response,
    ) {
        if !answer.links.is_empty() && matches!(kind, RequestKind::Home | RequestKind::TagList) {
            self.link_count = answer.links.len().min(LINKS_MAX);
            self.links[..self.link_count].copy_from_slice(&answer.links[..self.link_count]);
        }
        match (action, kind) {
            (_, RequestKind::Login) => self.logged_on = true,
            (_, RequestKind::Logout) => {
                self.logged_on = false;
                self.cold = [self.rng.unit() < world.cold_share; 3];
            }
            (Action::HomePage, RequestKind::Home) => {
                self.statics(0, 1, HOME_STATICS);
                self.images(world, HOME_IMAGE);
            }
            (Action::TagSearch, RequestKind::TagList) => self.images(world, LIST_IMAGE),
            (Action::EventDetail, RequestKind::Event) => {
                self.statics(1, 1 + HOME_STATICS, EVENT_STATICS);
                self.image(self.event);
                if self.rng.unit() < EVENT_IMAGE {
                    self.image(1 + self.event % world.data.events);
                }
                if self.logged_on && self.rng.unit() < ATTEND_SHARE {
                    self.push(RequestKind::Attend, self.event);
                }
            }
            (Action::AddPerson, RequestKind::PersonForm) => {
                self.form();
                self.push_upload(RequestKind::PersonPost, 0, world.picture_bytes);
            }
            (Action::AddEvent, RequestKind::EventForm) => {
                self.form();
                if self.logged_on {
                    let bytes = world.picture_bytes + world.document_bytes;
                    let tag = world.new_tag(&mut self.rng);
                    self.push_upload(RequestKind::EventPost, tag, bytes);
                }
            }
            _ => {}
        }
    }

    pub(super) fn next_step(&mut self) -> Option<Step> {
        self.steps.pop_front()
    }

    pub(super) fn has_more(&self) -> bool {
        !self.steps.is_empty()
    }

    /// Gives up what is left of the action.
    pub(super) fn abandon(&mut self) {
        self.steps.clear();
    }

    fn push(&mut self, kind: RequestKind, argument: u64) {
        self.push_upload(kind, argument, 0);
    }

    fn push_upload(&mut self, kind: RequestKind, argument: u64, body_bytes: u32) {
        self.steps.push_back(Step { kind, argument, body_bytes });
    }

    /// The static files of a kind of page, once per cold session.
    fn statics(&mut self, page: usize, first: u64, count: u64) {
        if std::mem::take(&mut self.cold[page]) {
            for asset in first..(first + count).min(STATIC_ASSETS + 1) {
                self.push(RequestKind::Asset, asset);
            }
        }
    }

    /// A form's: all of them, or just the one that is never cached.
    fn form(&mut self) {
        let first = 1 + HOME_STATICS + EVENT_STATICS;
        if self.cold[2] {
            self.statics(2, first, FORM_STATICS);
        } else {
            self.push(RequestKind::Asset, first);
        }
    }

    /// Thumbnails of the last list: how many is drawn; where links are few, others fill up.
    fn images(&mut self, world: &World, chance: f64) {
        for at in 0..LINKS_MAX {
            if self.rng.unit() < chance {
                let event = match self.links[..self.link_count].get(at) {
                    Some(link) => u64::from(*link),
                    None => 1 + self.rng.below(world.data.events),
                };
                self.image(event);
            }
        }
    }

    fn image(&mut self, event: u64) {
        let event = u32::try_from(event).unwrap_or(u32::MAX);
        self.push(RequestKind::Asset, thumbnail(event));
    }
}
