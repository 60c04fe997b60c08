//! Watch: launches the kernel when there is something to do, sees that it gets on, and retires it.
//!
//! Invariants
//! - Only here is a launch number written, and each is used once.
//! - A kernel is retired only when nothing is outstanding and no order lacks its reply; what is
//!   written meanwhile finds that no kernel is live, and has the next one launched.
//! - A loss is for good: nothing on the chip is touched after it, nor given back.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use super::chip::Chip;
use super::heart::Heart;
use super::options::CudaOptions;
use super::runner::{Shared, nap};
use crate::hub::{Hub, beats};
use crate::layout::header_word;
use crate::lost::DeviceLost;

/// How often a kernel that runs is asked whether it still does.
const LOOK: Duration = Duration::from_millis(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No kernel is there.
    Away,
    /// The newest launch is there, or about to be.
    Here { idle_since: Option<Instant> },
    /// It was told to leave.
    Leaving,
}

/// How a look ended.
enum Next {
    /// Look again after so long, or when woken.
    Sleep(Duration),
    /// Look again when woken.
    Wait,
    /// The kernel has left for good.
    End,
    /// The device is lost, for good.
    Lost(DeviceLost),
}

/// See the module.
pub(super) struct Watch {
    chip: Chip,
    hub: Arc<Hub>,
    shared: Arc<Shared>,
    heart: Heart,
    linger: Duration,
    phase: Phase,
    generation: u64,
    handovers: u64,
    unanswered: u32,
}

impl Watch {
    pub(super) fn new(
        chip: Chip,
        hub: Arc<Hub>,
        shared: Arc<Shared>,
        options: &CudaOptions,
    ) -> Self {
        Self {
            chip,
            hub,
            shared,
            heart: Heart::new(options.hang_after, Instant::now()),
            linger: options.linger,
            phase: Phase::Away,
            generation: 0,
            handovers: 0,
            unanswered: 0,
        }
    }

    /// Until the device is stopped or lost.
    pub(super) fn run(mut self) {
        let lost = loop {
            match self.look() {
                Next::Sleep(time) => std::thread::park_timeout(time),
                Next::Wait => std::thread::park(),
                Next::End => break None,
                Next::Lost(why) => break Some(why),
            }
        };
        self.shared.live.store(false, Ordering::SeqCst);
        if let Some(why) = lost {
            self.hub.lose(why);
            // A context that is dead, or a stream that is over, runs nothing; else the kernel may
            // still write, and nothing is given back before the device is closed.
            let may_write = matches!(self.chip.is_over(), Ok(false));
            self.chip.abandon();
            if !may_write {
                self.hub.settle_loss();
            }
        } else {
            drop(self.chip);
            self.hub.control.lose();
        }
        self.shared.over.store(true, Ordering::SeqCst);
        self.shared.quiet.lock().there = false;
        self.shared.left.notify_all();
        self.shared.wake_reaper();
    }

    fn look(&mut self) -> Next {
        self.hub.control.replied();
        let next = match self.phase {
            Phase::Away => self.away(),
            Phase::Here { idle_since } => self.here(idle_since),
            Phase::Leaving => self.leaving(),
        };
        next.unwrap_or_else(Next::Lost)
    }

    fn is_wanted(&self) -> bool {
        self.hub.outstanding() > 0 || self.hub.control.is_waiting()
    }

    fn away(&mut self) -> Result<Next, DeviceLost> {
        if self.is_wanted() {
            return self.launch();
        }
        if self.shared.stopping.load(Ordering::SeqCst) {
            return Ok(Next::End);
        }
        Ok(Next::Wait)
    }

    /// The next launch; behind one that still runs, it takes over.
    fn launch(&mut self) -> Result<Next, DeviceLost> {
        self.shared.quiet.lock().there = true;
        self.generation += 1;
        self.handovers = self.shared.handovers.load(Ordering::SeqCst);
        // Before the launch: it would leave at once if it were not the current one.
        self.hub.tell_generation(self.generation);
        let launched = self.chip.launch(self.generation);
        launched.map_err(DeviceLost::Faulted)?;
        self.shared.launches.fetch_add(1, Ordering::SeqCst);
        self.heart.restart(Instant::now());
        self.phase = Phase::Here { idle_since: None };
        self.shared.live.store(true, Ordering::SeqCst);
        Ok(Next::Sleep(nap(0)))
    }

    fn here(&mut self, idle_since: Option<Instant>) -> Result<Next, DeviceLost> {
        let over = self.is_over()?;
        if over && !self.is_stopped() {
            return Err(DeviceLost::Ended);
        }
        if over {
            // What it said last.
            self.hub.control.replied();
            self.phase = Phase::Away;
            return self.away();
        }
        self.check_heart()?;
        if self.shared.handovers.load(Ordering::SeqCst) != self.handovers {
            return self.launch();
        }
        if self.is_wanted() {
            self.phase = Phase::Here { idle_since: None };
            return Ok(Next::Sleep(self.pause()));
        }
        let now = Instant::now();
        let idle_since = idle_since.unwrap_or(now);
        self.phase = Phase::Here {
            idle_since: Some(idle_since),
        };
        let idle = now.saturating_duration_since(idle_since);
        let quiet = self.shared.quiet.lock().wanted;
        if quiet || idle >= self.linger || self.is_stopped() {
            return self.retire();
        }
        // Whoever publishes to a live kernel does not wake this thread: it looks by itself.
        Ok(Next::Sleep(self.linger.saturating_sub(idle).min(LOOK * 5)))
    }

    /// Between looks while something is to be done.
    fn pause(&mut self) -> Duration {
        if !self.hub.control.is_waiting() {
            self.unanswered = 0;
            return LOOK;
        }
        self.unanswered = self.unanswered.saturating_add(1);
        // An order may wait for work for long: then its reply is no hurry.
        if self.unanswered > 1000 {
            LOOK
        } else {
            nap(self.unanswered)
        }
    }

    fn retire(&mut self) -> Result<Next, DeviceLost> {
        self.shared.live.store(false, Ordering::SeqCst);
        // Pairs with the fence of whoever writes: either it sees that no kernel is live, or what
        // it counted before it wrote is seen here.
        fence(Ordering::SeqCst);
        if self.is_wanted() {
            self.shared.live.store(true, Ordering::SeqCst);
            self.phase = Phase::Here { idle_since: None };
            return Ok(Next::Sleep(LOOK));
        }
        self.hub.tell_generation(0);
        self.heart.restart(Instant::now());
        self.phase = Phase::Leaving;
        self.leaving()
    }

    fn leaving(&mut self) -> Result<Next, DeviceLost> {
        if self.is_over()? {
            self.phase = Phase::Away;
            self.shared.quiet.lock().there = false;
            self.shared.left.notify_all();
            return self.away();
        }
        // A kernel that does not leave stands still, whatever else it does.
        self.check_leaving()?;
        if self.is_wanted() {
            return self.launch();
        }
        Ok(Next::Sleep(nap(1)))
    }

    fn is_over(&self) -> Result<bool, DeviceLost> {
        let over = self.chip.is_over();
        over.map_err(DeviceLost::Faulted)
    }

    /// Whether `Stop` was ordered, or is about to be: then the kernel leaves by itself.
    fn is_stopped(&self) -> bool {
        self.hub.pump.is_closed() || self.shared.stopping.load(Ordering::SeqCst)
    }

    fn check_heart(&mut self) -> Result<(), DeviceLost> {
        let waits = self.hub.pump.on_ring() > 0 || self.hub.control.is_waiting();
        self.stands_still(waits)
    }

    fn check_leaving(&mut self) -> Result<(), DeviceLost> {
        self.stands_still(true)
    }

    fn stands_still(&mut self, waits: bool) -> Result<(), DeviceLost> {
        let beats = beats(&self.hub.region, &self.hub.layout);
        let progress = self.hub.reaped() + self.hub.control.answered();
        let lost = self.heart.check(Instant::now(), beats, progress, waits);
        lost.map_or(Ok(()), Err)
    }
}

impl Hub {
    /// Says which launch is to run; of any other, the kernel stops at its next tile boundary.
    fn tell_generation(&self, generation: u64) {
        let line = self.region.slots(0, 2).and_then(|header| header.get(1));
        if let Some(word) = line.and_then(|line| line.word(header_word::GENERATION)) {
            word.store(generation, Ordering::Release);
        }
    }
}
