//! Whose turn it is on an HTTP connection: the client's, from whom a request is to come, or ours, who are to answer it.

use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use hyper::body::{Body, Frame, SizeHint};

/// Of one connection. Turns of all connections are numbered, so that it is known who keeps us waiting the longest.
#[derive(Debug)]
pub(super) struct Turn {
    numbers: Arc<AtomicU64>,
    /// 0: it is ours.
    number: AtomicU64,
}

impl Turn {
    /// The client begins.
    pub(super) fn new(numbers: &Arc<AtomicU64>) -> Arc<Self> {
        let turn = Self { numbers: Arc::clone(numbers), number: AtomicU64::new(0) };
        turn.is_theirs_now();
        Arc::new(turn)
    }

    pub(super) fn is_theirs_now(&self) {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        self.number.store(number, Ordering::Relaxed);
    }

    pub(super) fn is_ours_now(&self) {
        self.number.store(0, Ordering::Relaxed);
    }

    /// While it is the client's; it is the smaller, the longer we have waited.
    pub(super) fn of_client(&self) -> Option<NonZeroU64> {
        NonZeroU64::new(self.number.load(Ordering::Relaxed))
    }
}

/// A body at whose end the turn changes.
#[derive(Debug)]
pub(super) struct Watched<B> {
    body: B,
    end: End,
}

#[derive(Debug)]
struct End {
    turn: Arc<Turn>,
    is_request: bool,
}

impl End {
    fn reached(&self) {
        if self.is_request {
            self.turn.is_ours_now();
        } else {
            self.turn.is_theirs_now();
        }
    }
}

impl Drop for End {
    /// What is left of a request is of no use to whoever answers it; an answer ends with its last part, or with its
    /// client.
    fn drop(&mut self) {
        self.reached();
    }
}

impl<B: Body> Watched<B> {
    pub(super) fn request(body: B, turn: &Arc<Turn>) -> Self {
        let watched = Self { end: End { turn: Arc::clone(turn), is_request: true }, body };
        if watched.body.is_end_stream() {
            watched.end.reached();
        }
        watched
    }

    pub(super) fn answer(body: B, turn: &Arc<Turn>) -> Self {
        Self { end: End { turn: Arc::clone(turn), is_request: false }, body }
    }
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if self.end.is_request && (matches!(polled, Poll::Ready(None)) || self.body.is_end_stream()) {
            self.end.reached();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
