//! Usedesk's webhook for new comments at `POST /notification/post`: `ticket.additional_id` is the recipient, `text` the message,
//! `secret` authenticates Usedesk. Comments that the recipient wrote are refused.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::guard::is_token;
use super::notification::{Name, Refusal, TextWish, bad, nobody, read_as};
use super::views::ToldView;
use super::{Pushed, State};
use crate::config::Token;
use crate::push::Outcome;

/// `from` of a comment by the support staff; a recipient's own comment has `client`.
const STAFF: &str = "user";

/// The fields of the webhook that matter here.
#[derive(Deserialize)]
struct Webhook {
    text: Option<Box<str>>,
    from: Option<Box<str>>,
    secret: Option<Box<str>>,
    ticket: Ticket,
}

#[derive(Deserialize)]
struct Ticket {
    additional_id: Option<Name>,
}

/// Whether a body is a webhook: no other form names its recipient in a ticket.
pub(super) fn is_webhook(body: &Value) -> bool {
    body.get("ticket").is_some_and(Value::is_object) && body.get("recipient_id").is_none()
}

pub(super) async fn tell(state: &State, body: &Value) -> Result<Response, Refusal> {
    let wish = text_wish(read_as(body)?, state.webhook_secret.as_ref())?;
    let pushed = state.notifications.tell(wish).await?;
    let result: Vec<_> = pushed.iter().filter_map(result).collect();
    if result.is_empty() {
        return Ok(nobody(&pushed));
    }
    Ok(Json(json!({ "code": StatusCode::OK.as_u16(), "result": result })).into_response())
}

fn text_wish(webhook: Webhook, secret: Option<&Token>) -> Result<TextWish, Refusal> {
    let given = webhook.secret.as_deref().unwrap_or_default();
    if secret.is_some_and(|secret| !is_token(secret, given.as_bytes())) {
        return Err(Refusal::Forbidden("\"secret\" is not the one in notification.secret_file".to_owned()));
    }
    if webhook.from.as_deref() != Some(STAFF) {
        return Err(bad(format!(
            "nobody is told: \"from\" is not {STAFF:?}, and clients know what they write themselves"
        )));
    }
    let recipient = webhook.ticket.additional_id.map(Box::<str>::from).filter(|recipient| !recipient.is_empty());
    let recipient =
        recipient.ok_or_else(|| bad("\"ticket\".\"additional_id\" is needed: the recipient_id of its tokens"))?;
    let text = webhook.text.ok_or_else(|| bad("\"text\" is needed: what the user is to be told"))?;
    Ok(TextWish { recipient: Some(recipient), tokens: Vec::new(), title: None, text })
}

/// The result for a device that has a push token.
fn result(pushed: &Pushed) -> Option<Value> {
    pushed.provider?;
    let is_accepted = matches!(pushed.answer, Some((Outcome::Accepted, _)));
    let told = ToldView::new(pushed);
    Some(json!({ "token": told.sha256, "success": is_accepted, "message": told.reason.unwrap_or_default() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(change: impl FnOnce(&mut Value)) -> Result<TextWish, Refusal> {
        let mut body = json!({ "from": "user", "text": "Ready", "ticket": { "additional_id": "dehwuwo13j12223" } });
        change(&mut body);
        assert!(is_webhook(&body));
        text_wish(read_as(&body)?, None)
    }

    #[test]
    fn the_ticket_says_who_is_told() {
        let said = wish(|_| {}).unwrap();
        assert_eq!((said.recipient.as_deref(), &*said.text, said.title), (Some("dehwuwo13j12223"), "Ready", None));
        let numbered = wish(|body| body["ticket"]["additional_id"] = 42.into()).unwrap();
        assert_eq!(numbered.recipient.as_deref(), Some("42"));
        for nobody in [Value::Null, "".into()] {
            let Err(Refusal::Bad(reason)) = wish(|body| body["ticket"]["additional_id"] = nobody) else { panic!() };
            assert!(reason.contains("additional_id"), "{reason}");
        }
        let Err(Refusal::Bad(reason)) = wish(|body| body["text"] = Value::Null) else { panic!() };
        assert!(reason.contains("\"text\""), "{reason}");
    }

    #[test]
    fn the_author_is_not_told() {
        for from in ["client".into(), "User".into(), "".into(), Value::Null] {
            let Err(Refusal::Bad(reason)) = wish(|body| body["from"] = from.clone()) else { panic!("{from}") };
            assert!(reason.contains("\"from\""), "{reason}");
        }
    }
}
