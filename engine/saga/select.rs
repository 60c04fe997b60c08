//! The first of several branches, the same one on every replay.
//!
//! Outcomes are delivered to a saga one at a time, and it is polled to idle in between. So polling
//! the branches in their order finds the one whose outcome was delivered first.

use std::convert::Infallible;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::task::{Context, Poll};

/// The branch that ended first, of a tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Selected<A, B, C = Infallible, D = Infallible> {
    /// The first branch, and what it gave.
    First(A),
    /// The second branch, and what it gave.
    Second(B),
    /// The third branch, and what it gave.
    Third(C),
    /// The fourth branch, and what it gave.
    Fourth(D),
}

/// What can be selected from: a tuple of two to four futures, or an array or a vector of futures
/// of one type, which gives the position of the branch and its output. Of an empty one no branch
/// ever ends.
pub trait Branches {
    /// The branches as futures, in their order.
    type Futures: Unpin;
    /// Which branch ended, and with what.
    type Output;

    /// Makes the branches ready to be polled.
    fn begin(self) -> Self::Futures;

    /// Polls the branches in their order until one is ready.
    fn poll_first(futures: &mut Self::Futures, context: &mut Context<'_>) -> Poll<Self::Output>;
}

/// A selection before it has ended.
#[must_use = "a selection does nothing until it is awaited"]
pub struct Select<B: Branches> {
    futures: B::Futures,
}

impl<B: Branches> Select<B> {
    pub(crate) fn new(branches: B) -> Self {
        Self {
            futures: branches.begin(),
        }
    }
}

impl<B: Branches> Future for Select<B> {
    type Output = B::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        B::poll_first(&mut self.futures, context)
    }
}

/// A branch on the heap, so that any future can be one.
type Branch<F> = Pin<Box<<F as IntoFuture>::IntoFuture>>;

fn branch<F: IntoFuture>(future: F) -> Branch<F> {
    Box::pin(future.into_future())
}

fn poll_all<F: IntoFuture>(
    futures: &mut [Branch<F>],
    context: &mut Context<'_>,
) -> Poll<(usize, F::Output)> {
    for (position, future) in futures.iter_mut().enumerate() {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready((position, output));
        }
    }
    Poll::Pending
}

impl<F: IntoFuture> Branches for Vec<F> {
    type Futures = Vec<Branch<F>>;
    type Output = (usize, F::Output);

    fn begin(self) -> Self::Futures {
        self.into_iter().map(branch).collect()
    }

    fn poll_first(futures: &mut Self::Futures, context: &mut Context<'_>) -> Poll<Self::Output> {
        poll_all::<F>(futures, context)
    }
}

impl<F: IntoFuture, const N: usize> Branches for [F; N] {
    type Futures = [Branch<F>; N];
    type Output = (usize, F::Output);

    fn begin(self) -> Self::Futures {
        self.map(branch)
    }

    fn poll_first(futures: &mut Self::Futures, context: &mut Context<'_>) -> Poll<Self::Output> {
        poll_all::<F>(futures, context)
    }
}

macro_rules! tuple {
    ($selected:ty, $($branch:ident $field:tt $variant:ident),+) => {
        impl<$($branch: IntoFuture),+> Branches for ($($branch,)+) {
            type Futures = ($(Branch<$branch>,)+);
            type Output = $selected;

            fn begin(self) -> Self::Futures {
                ($(branch(self.$field),)+)
            }

            fn poll_first(
                futures: &mut Self::Futures,
                context: &mut Context<'_>,
            ) -> Poll<Self::Output> {
                $(
                    if let Poll::Ready(output) = futures.$field.as_mut().poll(context) {
                        return Poll::Ready(Selected::$variant(output));
                    }
                )+
                Poll::Pending
            }
        }
    };
}

tuple!(Selected<A::Output, B::Output>, A 0 First, B 1 Second);
tuple!(Selected<A::Output, B::Output, C::Output>, A 0 First, B 1 Second, C 2 Third);
tuple!(
    Selected<A::Output, B::Output, C::Output, D::Output>,
    A 0 First, B 1 Second, C 2 Third, D 3 Fourth
);
