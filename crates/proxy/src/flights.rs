//! What a call has in flight: the attempts themselves, their dues, and where they went.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use seaworthy_core::Instant;

use crate::attempt::Done;
use crate::ledger::Leg;
use crate::task::Clock;

/// What is in flight.
pub(crate) struct Flights<'p, F, M> {
    pub main: Pin<&'p mut Option<F>>,
    /// The attempt in `main`; 0 if there is none.
    pub main_is: u8,
    pub others: &'p mut Vec<(u8, Pin<Box<F>>)>,
    pub make: M,
}

impl<F: Future<Output = Done>, M> Flights<'_, F, M> {
    pub(crate) fn add(&mut self, attempt: u8, future: F) {
        if self.main_is == 0 {
            self.main_is = attempt;
            self.main.set(Some(future));
        } else {
            self.others.push((attempt, Box::pin(future)));
        }
    }

    pub(crate) fn drop_attempt(&mut self, attempt: u8) {
        if self.main_is == attempt {
            self.main_is = 0;
            self.main.set(None);
        }
        self.others.retain(|(other, _)| *other != attempt);
    }

    /// The first attempt that has news.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Option<(u8, Done)> {
        if let Some(future) = self.main.as_mut().as_pin_mut()
            && let Poll::Ready(done) = future.poll(cx)
        {
            self.main.set(None);
            return Some((std::mem::take(&mut self.main_is), done));
        }
        for n in 0..self.others.len() {
            if let Poll::Ready(done) = self.others[n].1.as_mut().poll(cx) {
                let (attempt, _) = self.others.swap_remove(n);
                return Some((attempt, done));
            }
        }
        None
    }
}

/// The dues of the attempts that are not over; more than one only where there are hedges or spare answers.
#[derive(Default)]
pub(crate) struct Legs {
    first: Option<Leg>,
    more: Vec<Leg>,
}

impl Legs {
    pub(crate) fn put(&mut self, leg: Leg) {
        if self.first.is_none() {
            self.first = Some(leg);
        } else {
            self.more.push(leg);
        }
    }

    /// Tells the breakers what runs for too long, and asks to be woken when something will have.
    pub(crate) fn tell_overdue(&mut self, now: Instant, clock: &Clock) {
        for leg in self.first.iter_mut().chain(&mut self.more) {
            if leg.overdue_at <= now {
                leg.overdue(now);
            }
            clock.wake_by(leg.overdue_at);
        }
    }

    pub(crate) fn find(&mut self, attempt: u8) -> Option<&mut Leg> {
        self.first.iter_mut().chain(&mut self.more).find(|leg| leg.attempt == attempt)
    }

    pub(crate) fn take(&mut self, attempt: u8) -> Option<Leg> {
        if let Some(leg) = self.first.take_if(|leg| leg.attempt == attempt) {
            return Some(leg);
        }
        let n = self.more.iter().position(|leg| leg.attempt == attempt)?;
        Some(self.more.swap_remove(n))
    }
}
