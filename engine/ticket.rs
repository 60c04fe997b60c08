//! Tickets: the caller's side of what was accepted.
//!
//! Dropping a ticket changes nothing: the work is done all the same, and whoever submits its key
//! again gets the outcome. A ticket that was told [`SubmitError::Stuck`] can be asked again: it
//! says so still, or what has become of the work since.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::time::Duration;

use futures_util::future::BoxFuture;
use orlop_saga::id::SagaId;
use orlop_saga::key::Key;
use serde::de::DeserializeOwned;

use crate::driver::CancelError;
use crate::error::SubmitError;
use crate::flight::{Cancelled, Seat};
use crate::submission::{Reply, reply, wait};
use crate::tenant::Tenant;

/// A place at a flight, with the type of its outcome.
struct Claim<T> {
    tenant: Tenant,
    seat: Seat,
    output: PhantomData<fn() -> T>,
}

impl<T> Claim<T> {
    fn key(&self) -> Key {
        self.seat.flight.id.key
    }
}

impl<T: DeserializeOwned> Claim<T> {
    async fn outcome(&mut self, deadline: Option<Duration>) -> Result<Reply<T>, SubmitError> {
        let key = self.key();
        self.seat.ask_again(&self.tenant.core);
        let arrival = wait(&self.tenant.core, key, &mut self.seat.outcome, deadline).await?;
        reply(arrival, key, self.seat.joined)
    }
}

macro_rules! ticket {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[must_use = "await the ticket for the outcome"]
        pub struct $name<T> {
            claim: Claim<T>,
        }

        impl<T> $name<T> {
            pub(crate) fn new(tenant: Tenant, seat: Seat) -> Self {
                Self { claim: Claim { tenant, seat, output: PhantomData } }
            }

            /// The key it was accepted under.
            pub fn key(&self) -> Key {
                self.claim.key()
            }
        }

        impl<T: DeserializeOwned + Send + 'static> $name<T> {
            /// Waits for the outcome, at most for `deadline`. The ticket can be asked again.
            ///
            /// # Errors
            /// [`SubmitError`]: as for a submission; of a saga, `Failed` says that it was
            /// compensated and why.
            pub async fn wait_for(&mut self, deadline: Duration) -> Result<Reply<T>, SubmitError> {
                self.claim.outcome(Some(deadline)).await
            }
        }

        impl<T: DeserializeOwned + Send + 'static> IntoFuture for $name<T> {
            type Output = Result<Reply<T>, SubmitError>;
            type IntoFuture = BoxFuture<'static, Self::Output>;

            fn into_future(mut self) -> Self::IntoFuture {
                Box::pin(async move { self.claim.outcome(None).await })
            }
        }

        impl<T> fmt::Debug for $name<T> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.key()).finish()
            }
        }
    };
}

ticket! {
    /// The caller's side of accepted work.
    Ticket
}

ticket! {
    /// The caller's side of a saga, which completes or is compensated.
    SagaTicket
}

impl<T> Ticket<T> {
    /// Takes the work back if it does not run yet, else asks it to stop.
    pub fn cancel(&self) -> Cancelled {
        self.claim.seat.flight.cancel(&self.claim.tenant.core)
    }
}

impl<T> SagaTicket<T> {
    /// The run behind the key, if its outcome is not older than this engine's memory of it.
    pub fn id(&self) -> Option<SagaId> {
        self.claim.seat.flight.saga()
    }

    /// Has it unwound: every step that is done or in doubt is undone, newest first. Returns once
    /// the wish is durable.
    ///
    /// # Errors
    /// [`CancelError`]: it goes on as it was.
    pub async fn cancel(&self) -> Result<(), CancelError> {
        let core = &self.claim.tenant.core;
        core.cancel_saga(self.claim.seat.flight.id, self.id()).await
    }
}
