// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Carries out what the session asks for.

use std::sync::Arc;

use super::ToSource;
use super::dial::Dial;
use super::lane::{Chain, Job};
use super::run::{Run, spawn};
use crate::bitmap::DenseBitmap;
use crate::engine::digest;
use crate::session::{Batch, SourceAction, SourceInput, SourcePhase};
use crate::units::{ChannelId, PageRun};
use crate::wire::Message;

impl Run<'_, '_, '_, '_> {
    pub(super) fn act(&mut self, action: SourceAction) {
        let done = match action {
            SourceAction::Send { channel, message } => {
                self.send(channel, message);
                Ok(())
            }
            SourceAction::OpenChannels { channels } => self.dial(Dial::Open(channels - 1)),
            SourceAction::Arm => self.arm(),
            SourceAction::ScanPopulated => self.scan(),
            SourceAction::Harvest { last } => self.harvest(last),
            SourceAction::Peek { window } => self.peek(window),
            SourceAction::SendBatch(batch) => self.batch(batch),
            SourceAction::SetThrottle(throttle) => {
                if let Err(error) = self.parts.guest.throttle(throttle) {
                    tracing::warn!(error = %Chain(&error), "The guest is not slowed");
                }
                Ok(())
            }
            SourceAction::SetRate(rate) => {
                self.rate = rate;
                self.set_rates(self.options.options.bandwidth_cap_bytes_per_s);
                Ok(())
            }
            SourceAction::Pause => self.pause(),
            SourceAction::ExportState => self.export(),
            SourceAction::ComputeDigest => self.digest(),
            SourceAction::Resume => {
                let result = self.parts.guest.resume();
                self.resumed = Some(self.clock.now());
                result.map_err(|error| Chain(&error).to_string())
            }
            SourceAction::Restore => self.restore(),
            SourceAction::Disarm => {
                self.parts.tracker.disarm().map_err(|error| Chain(&error).to_string())
            }
            SourceAction::Ask => self.dial(Dial::Ask(self.options.options.migration_id)),
            SourceAction::Finish(outcome) => {
                self.finished = Some(outcome);
                Ok(())
            }
        };
        if let Err(reason) = done {
            tracing::warn!(reason, "The source could not do its part");
            self.tell(SourceInput::Failed { reason });
        }
    }

    fn send(&mut self, channel: ChannelId, message: Message) {
        let now = self.clock.now();
        self.record.sending(now, &message);
        if matches!(message, Message::Commit { .. }) {
            self.parts.guest.committing();
            self.record.committing(now);
        }
        self.push(channel, Job::Message(message));
    }

    fn dial(&self, job: Dial) -> Result<(), String> {
        let sent = self.links.dial.as_ref().is_some_and(|dial| dial.try_send(job).is_ok());
        if sent { Ok(()) } else { Err("The dialling thread is gone".to_owned()) }
    }

    fn arm(&mut self) -> Result<(), String> {
        self.set_rates(self.options.options.bandwidth_cap_bytes_per_s);
        let regions = &self.parts.regions;
        let kind = self.options.options.encoder.limited_to(self.session.capabilities());
        let cache = self.options.options.delta_cache_bytes(regions);
        let encoders = kind.set(regions.pages(), regions.page_size(), cache);
        let encoders = encoders.map_err(|error| error.to_string())?;
        for channel in ChannelId::all(self.session.channels()) {
            if let Some(encoder) = encoders.encoder() {
                self.push(channel, Job::Encoder(encoder));
            }
        }
        self.options.encoders = Some(encoders);
        self.parts.tracker.arm().map_err(|error| Chain(&error).to_string())?;
        self.tell(SourceInput::Armed);
        Ok(())
    }

    fn scan(&mut self) -> Result<(), String> {
        self.scratch.clear_all();
        let found = self.parts.memory.populated(&mut self.scratch);
        found.map_err(|error| Chain(&error).to_string())?;
        self.session.handle(self.clock.now(), SourceInput::Populated(&self.scratch));
        Ok(())
    }

    fn harvest(&mut self, last: bool) -> Result<(), String> {
        if !last {
            let requests = self.parts.guest.requests();
            self.tell(SourceInput::Requests(requests));
        }
        let began = self.clock.now();
        self.scratch.clear_all();
        let harvest = self.parts.tracker.harvest(&mut self.scratch);
        harvest.map_err(|error| Chain(&error).to_string())?;
        // In a round pages are re-armed before they are read; here none will be.
        let tracker = &mut self.parts.tracker;
        if self.session.phase() == SourcePhase::Preflight && tracker.needs_rearm() {
            for run in self.scratch.runs() {
                tracker.rearm(run).map_err(|error| Chain(&error).to_string())?;
            }
        }
        let now = self.clock.now();
        if last {
            self.record.final_harvest(began, now);
        }
        self.session.handle(now, SourceInput::Harvested { set: &self.scratch, began });
        Ok(())
    }

    fn peek(&mut self, window: PageRun) -> Result<(), String> {
        let pages = self.parts.regions.pages();
        let peeked = self.peeked.get_or_insert_with(|| DenseBitmap::new(pages));
        let can = self.parts.tracker.peek(window, peeked);
        let can = can.map_err(|error| Chain(&error).to_string())?;
        let input = SourceInput::Peeked(can.then_some(&*peeked));
        self.session.handle(self.clock.now(), input);
        peeked.clear_run(window);
        Ok(())
    }

    fn batch(&mut self, batch: Batch) -> Result<(), String> {
        let tracker = &mut self.parts.tracker;
        // Before the sending thread can read them (R1).
        if tracker.needs_rearm() {
            for run in &batch.runs {
                tracker.rearm(*run).map_err(|error| Chain(&error).to_string())?;
            }
        }
        if batch.clear {
            tracker.clear(&batch.runs).map_err(|error| Chain(&error).to_string())?;
        }
        self.push(batch.channel, Job::Batch(batch));
        Ok(())
    }

    fn pause(&mut self) -> Result<(), String> {
        if !self.options.options.cap_paused {
            self.set_rates(None);
        }
        let was_running = self.parts.guest.is_running();
        let began = self.clock.now();
        self.record.pause_called = Some(began);
        self.parts.guest.pause().map_err(|error| Chain(&error).to_string())?;
        self.record.paused(began, self.clock.now());
        self.tell(SourceInput::Paused { was_running });
        Ok(())
    }

    fn export(&mut self) -> Result<(), String> {
        let began = self.clock.now();
        let state = self.parts.guest.export_state();
        let state = state.map_err(|error| Chain(&error).to_string())?;
        self.record.state_exported(began, self.clock.now());
        self.tell(SourceInput::StateExported(state));
        Ok(())
    }

    fn digest(&mut self) -> Result<(), String> {
        let (memory, regions) = (Arc::clone(&self.parts.memory), self.parts.regions.clone());
        let (inbox, quit) = (self.sender.clone(), Arc::clone(&self.links.quit));
        spawn(self.scope, "precopy-digest".to_owned(), move || {
            let event = match digest::whole(&*memory, &regions, &quit) {
                Ok(Some(digest)) => ToSource::Digested(digest),
                Ok(None) => return,
                Err(error) => ToSource::Failed(format!("No digest: {}", Chain(&error))),
            };
            let _ = inbox.send(event);
        })
        .map_err(|error| format!("Could not start the digest: {error}"))
    }

    fn restore(&mut self) -> Result<(), String> {
        let restored = self.parts.tracker.restore(self.session.harvested_pages());
        restored.map_err(|error| Chain(&error).to_string())
    }
}
