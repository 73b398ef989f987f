//! Live events as server-sent events: `event` with the event's name, `data` with its JSON. A watcher that was too slow gets
//! `event: missed` with the number that went by.

use std::convert::Infallible;

use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::sse::{Event as Message, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::State;
use super::routes::error;
use crate::events::{Seen, Watcher};

/// Watchers at one time: each holds one of the listener's connections for as long as it likes.
const WATCHERS: usize = 16;

pub(super) async fn events(Shared(state): Shared<State>) -> Response {
    if state.events.watchers() >= WATCHERS {
        return error(StatusCode::SERVICE_UNAVAILABLE, "too many watch the events already");
    }
    let messages = stream::unfold(state.events.watch(), |mut watcher| async move {
        let message = next(&mut watcher).await?;
        Some((Ok::<_, Infallible>(message), watcher))
    });
    Sse::new(messages).keep_alive(KeepAlive::default()).into_response()
}

async fn next(watcher: &mut Watcher) -> Option<Message> {
    Some(match watcher.next().await? {
        Seen::Event(event) => Message::default().event(event.name()).data(event.to_json().to_string()),
        Seen::Missed(count) => Message::default().event("missed").data(format!("{{\"missed\":{count}}}")),
    })
}
