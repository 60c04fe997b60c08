//! Draining: before an upgrade, no new runs of a definition, and those that move come to an end.
//!
//! Held in memory: it ends with the engine, which the upgrade replaces.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use orlop_saga::effect::CodeRef;
use orlop_saga::saga::StatusKind;
use parking_lot::Mutex;

use super::{ListError, Operator, SagaQuery, SagaSummary, SubscribeError};

/// How many sagas that are left are named.
const NAMED_MAX: usize = 1000;

/// Definitions of which no new runs are taken.
#[derive(Default)]
pub(crate) struct Drains(Mutex<BTreeSet<(Box<str>, Option<u32>)>>);

impl Drains {
    /// Whether no new runs of this definition are taken.
    pub(crate) fn has(&self, code: &CodeRef) -> bool {
        let drains = self.0.lock();
        !drains.is_empty()
            && [None, Some(code.version)]
                .into_iter()
                .any(|version| drains.contains(&(code.name.clone(), version)))
    }
}

/// What draining came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// What has not ended, held ones included: the first thousand, in the order of their ids.
    pub left: Vec<SagaSummary>,
    /// How many there are.
    pub left_count: u64,
    /// How many of them still move.
    pub moving: u64,
}

/// Why a definition was not drained. New runs of it are taken as before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DrainError {
    /// A definition is all tenants': only [`Engine::operator`](crate::Engine::operator) drains it.
    #[error("the operator of one tenant cannot drain a definition")]
    OneTenant,
    /// The engine takes no work, or has ended.
    #[error(transparent)]
    Subscribe(#[from] SubscribeError),
    /// The engine takes no work, or has ended.
    #[error(transparent)]
    List(#[from] ListError),
}

impl Operator {
    /// Takes no new runs of a saga's definition, of all its versions or of one, and waits at most
    /// `within` for those that move to end or be held. Says what is left. What runs goes on
    /// afterwards, and new runs stay refused until [`admit`](Self::admit) or the engine's end;
    /// children of what runs are started all the same.
    ///
    /// # Errors
    /// [`DrainError`]: nothing is refused.
    pub async fn drain(
        &self,
        name: &str,
        version: Option<u32>,
        within: Duration,
    ) -> Result<Drained, DrainError> {
        if self.scope.is_some() {
            return Err(DrainError::OneTenant);
        }
        self.core.check_open().map_err(SubscribeError::from)?;
        let mut feed = self.core.feed.subscribe(None, 1, usize::MAX)?;
        let key = (Box::from(name), version);
        self.core.drains.0.lock().insert(key);
        let mut over = pin!(self.core.executor.runtime.sleep(within));
        loop {
            let drained = self.left(name, version).await?;
            if drained.moving == 0 {
                return Ok(drained);
            }
            match select(pin!(feed.next()), &mut over).await {
                Either::Left((Some(_), _)) => {}
                Either::Left((None, _)) | Either::Right(_) => {
                    return Ok(self.left(name, version).await?);
                }
            }
            // One look answers for all that was told meanwhile.
            while feed.try_next().is_some() {}
        }
    }

    /// Takes new runs of a definition again.
    pub fn admit(&self, name: &str, version: Option<u32>) {
        if self.scope.is_none() {
            let key = (Box::from(name), version);
            self.core.drains.0.lock().remove(&key);
        }
    }

    async fn left(&self, name: &str, version: Option<u32>) -> Result<Drained, ListError> {
        let mut drained = Drained::default();
        let mut query = SagaQuery {
            name: Some(name.into()),
            version,
            limit: SagaQuery::LIMIT_MAX,
            ..SagaQuery::default()
        };
        loop {
            let page = self.list(query.clone()).await?;
            // They were let in before and are about to be there.
            drained.left_count += page.starting;
            drained.moving += page.starting;
            for saga in page.sagas {
                drained.left_count += 1;
                match saga.status.kind() {
                    StatusKind::Running | StatusKind::Unwinding => drained.moving += 1,
                    StatusKind::Paused
                    | StatusKind::Stuck
                    | StatusKind::Abandoned
                    | StatusKind::Completed
                    | StatusKind::Compensated => {}
                }
                if drained.left.len() < NAMED_MAX {
                    drained.left.push(saga);
                }
            }
            query.after = page.next;
            if query.after.is_none() {
                return Ok(drained);
            }
        }
    }
}
