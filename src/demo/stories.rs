//! The stories: what each actor does, and what it must see of the others.

use serde_json::Value;

use super::dialog::DOMAIN;
use super::fcm_double::Answer;
use super::ladder::Actor;
use super::line::{Line, Tone};
use super::narrator::text;
use super::peer::Failure;
use super::phone::Phone;
use super::push_desk::{PushDesk, Pushed};
use super::softswitch::Softswitch;
use super::stage::{
    ALICE_TOKEN, BOB_TOKEN, BOB_VOIP, CAROL_TOKEN, DAVE_TOKEN, ERIN_TOKEN, FRANK_VOIP, GALINA_TOKEN, Stage,
};
use crate::sip::{HeaderName, Message};
use crate::timeline::{Reason, Step, Why};

/// In the order in which they are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Story {
    Registration,
    Call,
    Missed,
    TwoDevices,
    DeadToken,
    Browser,
    Gateway,
    Sandbox,
    RuStore,
}

impl Story {
    pub(super) const ALL: [Self; 9] = [
        Self::Registration,
        Self::Call,
        Self::Missed,
        Self::TwoDevices,
        Self::DeadToken,
        Self::Browser,
        Self::Gateway,
        Self::Sandbox,
        Self::RuStore,
    ];

    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Registration => "A phone registers and falls asleep",
            Self::Call => "A call wakes it",
            Self::Missed => "The caller gives up too early",
            Self::TwoDevices => "Two devices ring, one answers",
            Self::DeadToken => "The app is gone",
            Self::Browser => "A browser is woken by Web Push",
            Self::Gateway => "An own gateway wakes a phone",
            Self::Sandbox => "An app in development is woken",
            Self::RuStore => "A phone without Google is woken",
        }
    }

    /// What to look at.
    pub(super) fn point(self) -> [&'static str; 2] {
        match self {
            Self::Registration => [
                "The phone's Contact says how to wake it (RFC 8599). The softswitch, which is",
                "the registrar, sees a short alias instead, the same for this device for ever.",
            ],
            Self::Call => [
                "The INVITE is held while a push wakes the phone. It comes back from another",
                "port, registers, and gets the call. The caller has heard 182 meanwhile.",
            ],
            Self::Missed => [
                "The phone is out of reach and the push in vain. When it is back, no call that",
                "is over rings it: one push tells it of all the calls it has missed.",
            ],
            Self::TwoDevices => [
                "Bob has an Android (FCM, UDP) and an iPhone (APNs, TCP). Both are woken, each",
                "joins when it is ready, and the one that was too late is told so.",
            ],
            Self::DeadToken => [
                "Carol has uninstalled the app, and FCM says so. Her caller does not wait for",
                "nothing, the device is forgotten, and the operator can read why.",
            ],
            Self::Browser => [
                "Dave has a web page and no app; a gateway brings its WebSocket here by TCP.",
                "The push has no body (RFC 8599), and VAPID (RFC 8292) says who sends it.",
            ],
            Self::Gateway => [
                "Erin's app belongs to an operator who has push servers already. They get one",
                "signed JSON with all that is known of the call, at [push.callback] url.",
            ],
            Self::Sandbox => [
                "Frank has built the app himself. Its tokens are of Apple's sandbox, so it",
                "says pn-provider=apns.dev, and the push goes there, signed with the same key.",
            ],
            Self::RuStore => [
                "Galina's phone has nothing of Google's. The app's token is RuStore's, which",
                "takes FCM's form without a priority, and a service token that never ends.",
            ],
        }
    }

    /// What has been shown when it went well.
    pub(super) fn outcome(self) -> &'static str {
        match self {
            Self::Registration => "registered; it sleeps, and can be called all the same",
            Self::Call => "answered, at a port that did not exist when the INVITE came",
            Self::Missed => "no phone rings for a call that is over, and no call is forgotten",
            Self::TwoDevices => "one call, one answer, and the other device shows no missed call",
            Self::DeadToken => "the caller knew at once, and so does the operator",
            Self::Browser => "a web page rings like a phone",
            Self::Gateway => "any push service will do, if the operator can reach it",
            Self::Sandbox => "developers need no server of their own",
            Self::RuStore => "no call depends on whose services a phone was sold with",
        }
    }

    pub(super) fn lanes(self) -> Vec<(Actor, &'static str)> {
        let mut lanes = vec![(Actor::Softswitch, "softswitch"), (Actor::Proxy, "proxy")];
        match self {
            Self::Registration | Self::Call | Self::Missed => lanes.push((Actor::Phone(0), "Alice's phone")),
            Self::TwoDevices => lanes.extend([(Actor::Phone(1), "Android"), (Actor::Phone(2), "iPhone")]),
            Self::DeadToken => lanes.push((Actor::Phone(3), "Carol's phone")),
            Self::Browser => lanes.push((Actor::Phone(4), "Dave's browser")),
            Self::Gateway => lanes.push((Actor::Phone(5), "Erin's phone")),
            Self::Sandbox => lanes.push((Actor::Phone(6), "Frank's phone")),
            Self::RuStore => lanes.push((Actor::Phone(7), "Galina's phone")),
        }
        lanes.push((Actor::PushService, "push service"));
        lanes
    }

    /// Who sleeps when the story begins.
    pub(super) fn asleep(self) -> &'static [Actor] {
        match self {
            Self::Registration => &[],
            Self::Call | Self::Missed => &[Actor::Phone(0)],
            Self::TwoDevices => &[Actor::Phone(1), Actor::Phone(2)],
            Self::DeadToken => &[Actor::Phone(3)],
            Self::Browser => &[Actor::Phone(4)],
            Self::Gateway => &[Actor::Phone(5)],
            Self::Sandbox => &[Actor::Phone(6)],
            Self::RuStore => &[Actor::Phone(7)],
        }
    }

    /// What has happened before the story begins, and is not told.
    pub(super) async fn prepare(self, stage: &mut Stage) -> Result<(), Failure> {
        match self {
            Self::Registration | Self::Call | Self::Missed => {}
            Self::TwoDevices => {
                for phone in [&mut stage.android, &mut stage.iphone] {
                    phone.registers().await?;
                    phone.falls_asleep();
                }
            }
            Self::DeadToken => {
                stage.carol.registers().await?;
                stage.carol.falls_asleep();
                stage.push.fcm.script(CAROL_TOKEN, [Answer::Unregistered]);
            }
            Self::Browser => {
                stage.browser.registers().await?;
                stage.browser.falls_asleep();
            }
            Self::Gateway => {
                stage.erin.registers().await?;
                stage.erin.falls_asleep();
            }
            Self::Sandbox => {
                stage.frank.registers().await?;
                stage.frank.falls_asleep();
            }
            Self::RuStore => {
                stage.galina.registers().await?;
                stage.galina.falls_asleep();
            }
        }
        Ok(())
    }

    /// Plays it; how it ended, in a word or two.
    pub(super) async fn play(self, stage: &mut Stage) -> Result<&'static str, Failure> {
        match self {
            Self::Registration => registration(stage).await,
            Self::Call => call(stage).await,
            Self::Missed => missed(stage).await,
            Self::TwoDevices => two_devices(stage).await,
            Self::DeadToken => dead_token(stage).await,
            Self::Browser => is_reached(&mut stage.softswitch, &mut stage.push, &mut stage.browser, DAVE_TOKEN).await,
            Self::Gateway => is_reached(&mut stage.softswitch, &mut stage.push, &mut stage.erin, ERIN_TOKEN).await,
            Self::Sandbox => is_reached(&mut stage.softswitch, &mut stage.push, &mut stage.frank, FRANK_VOIP).await,
            Self::RuStore => is_reached(&mut stage.softswitch, &mut stage.push, &mut stage.galina, GALINA_TOKEN).await,
        }
    }
}

async fn registration(stage: &mut Stage) -> Result<&'static str, Failure> {
    stage.narrator.explain(true);
    stage.alice.registers().await?;
    stage.narrator.explain(false);
    let alias = stage.softswitch.alias_of(stage.alice.user())?;
    demand(!alias.contains("pn-"), "the softswitch", "an alias without push parameters", &alias)?;
    stage.alice.falls_asleep();
    Ok("registered")
}

async fn call(stage: &mut Stage) -> Result<&'static str, Failure> {
    let alias = stage.softswitch.alias_of(stage.alice.user())?;
    let mut caller = stage.softswitch.invites(stage.alice.user(), &alias).await?;
    stage.softswitch.hears(100).await?;
    let push = stage.push.expect("invite", ALICE_TOKEN).await?;
    stage.softswitch.hears(182).await?;
    stage.alice.is_woken_by(&push).await?;

    let invite = stage.alice.gets_invite().await?;
    stage.alice.rings(&invite).await?;
    stage.softswitch.hears(180).await?;
    stage.passes(350, Actor::Phone(0), "rings").await;
    let mut callee = stage.alice.accepts(&invite).await?;
    stage.softswitch.hears_final(&mut caller, 200).await?;
    stage.alice.gets_ack().await?;
    stage.passes(400, Actor::Phone(0), "they talk").await;
    stage.alice.hangs_up(&mut callee).await?;
    stage.softswitch.is_hung_up_on().await?;
    stage.alice.is_done().await?;
    stage.alice.falls_asleep();
    Ok("answered")
}

async fn missed(stage: &mut Stage) -> Result<&'static str, Failure> {
    let alias = stage.softswitch.alias_of(stage.alice.user())?;
    let mut caller = stage.softswitch.invites(stage.alice.user(), &alias).await?;
    stage.softswitch.hears(100).await?;
    stage.push.expect("invite", ALICE_TOKEN).await?;
    stage.softswitch.hears(182).await?;
    stage.passes(400, Actor::Softswitch, "caller waits").await;
    stage.softswitch.cancels(&mut caller).await?;

    stage.narrator.deed(Actor::Phone(0), "in reach again");
    stage.alice.gets_push("wakes, too late");
    stage.alice.wakes_up().await;
    stage.alice.registers().await?;
    let push = stage.push.expect("missed_calls", ALICE_TOKEN).await?;
    let calls = push.body.pointer("/message/data/calls").and_then(Value::as_str).unwrap_or_default();
    demand(
        calls.contains(r#""remote_uri":"103""#),
        "the push service",
        "the call of 103 among the missed ones",
        calls,
    )?;
    stage.alice.gets_push("1 missed call");
    // An INVITE would have been sent before the push, so that by then it would be here.
    stage.passes(150, Actor::Phone(0), "does not ring").await;
    stage.alice.expect_no_more()?;
    stage.alice.falls_asleep();
    Ok("missed, told")
}

async fn two_devices(stage: &mut Stage) -> Result<&'static str, Failure> {
    let mut caller = stage.softswitch.invites("bob", &format!("sip:bob@{DOMAIN}")).await?;
    stage.softswitch.hears(100).await?;
    let to_android = stage.push.expect("invite", BOB_TOKEN).await?;
    let to_iphone = stage.push.expect("invite", BOB_VOIP).await?;
    stage.softswitch.hears(182).await?;

    let (one, other) =
        tokio::join!(comes_and_rings(&mut stage.android, &to_android), comes_and_rings(&mut stage.iphone, &to_iphone));
    let (for_android, for_iphone) = (one?, other?);
    stage.softswitch.hears(180).await?;
    stage.softswitch.hears(180).await?;

    stage.passes(350, Actor::Phone(2), "rings").await;
    stage.iphone.accepts(&for_iphone).await?;
    stage.softswitch.hears_final(&mut caller, 200).await?;
    let cancel = stage.android.is_cancelled(&for_android).await?;
    let reason = text(cancel.first(HeaderName::Reason).unwrap_or_default());
    demand(reason.contains("Call completed elsewhere"), "Bob's Android", "a CANCEL that says why", &reason)?;
    stage.iphone.gets_ack().await?;
    stage.passes(300, Actor::Phone(2), "they talk").await;
    stage.softswitch.hangs_up(&mut caller).await?;
    stage.iphone.is_hung_up_on().await?;
    stage.softswitch.is_done().await?;
    Ok("answered once")
}

async fn comes_and_rings(phone: &mut Phone, push: &Pushed) -> Result<Message, Failure> {
    phone.is_woken_by(push).await?;
    let invite = phone.gets_invite().await?;
    phone.rings(&invite).await?;
    Ok(invite)
}

async fn dead_token(stage: &mut Stage) -> Result<&'static str, Failure> {
    let alias = stage.softswitch.alias_of(stage.carol.user())?;
    let mut caller = stage.softswitch.invites("carol", &alias).await?;
    let call_ref = caller.call_id.clone();
    stage.softswitch.hears(100).await?;
    let push = stage.push.expect("invite", CAROL_TOKEN).await?;
    demand(!push.is_accepted, "the push service", "to refuse the push", "it was accepted")?;
    stage.softswitch.hears(182).await?;
    stage.softswitch.hears_final(&mut caller, 480).await?;

    stage.forgets(stage.carol.user()).await?;
    stage.passes(150, Actor::Softswitch, "calls again").await;
    let mut caller = stage.softswitch.invites("carol", &alias).await?;
    stage.softswitch.hears(100).await?;
    stage.softswitch.hears_final(&mut caller, 404).await?;
    tell_why(stage, &call_ref);
    let call = stage.timeline.call(&call_ref);
    let mut events = call.iter().flat_map(|call| &call.events);
    let is_dead = |why: &Why| why.reason == Reason::TokenDead && why.words.contains("UNREGISTERED");
    let is_told = events.any(|event| event.step == Step::PushRefused && event.why.as_ref().is_some_and(is_dead));
    demand(is_told, "the operator", "push_refused with UNREGISTERED", "the timeline above")?;
    Ok("480 at once")
}

/// A call from its INVITE to its end, without any pause.
async fn is_reached(
    softswitch: &mut Softswitch,
    service: &mut PushDesk,
    phone: &mut Phone,
    token: &str,
) -> Result<&'static str, Failure> {
    let alias = softswitch.alias_of(phone.user())?;
    let mut caller = softswitch.invites(phone.user(), &alias).await?;
    softswitch.hears(100).await?;
    let push = service.expect("invite", token).await?;
    softswitch.hears(182).await?;
    phone.is_woken_by(&push).await?;
    let invite = phone.gets_invite().await?;
    let mut callee = phone.accepts(&invite).await?;
    softswitch.hears_final(&mut caller, 200).await?;
    phone.gets_ack().await?;
    phone.hangs_up(&mut callee).await?;
    softswitch.is_hung_up_on().await?;
    phone.is_done().await?;
    phone.falls_asleep();
    Ok("answered")
}

/// What the server remembers of a call, as `sip-push-proxy calls CALL_REF` prints it.
pub(super) fn tell_why(stage: &Stage, call_ref: &str) {
    stage.narrator.say(&Line::default());
    stage.narrator.say(&Line::of(&format!("   why?  sip-push-proxy calls {call_ref}"), Tone::Strong));
    let call = stage.timeline.call(call_ref);
    let events = call.as_ref().map(|call| call.events.as_slice()).unwrap_or_default();
    let began = events.first().map(|event| event.at).unwrap_or_default();
    for event in events {
        let after = event.at.since(began).as_millis();
        let reason = event.why.as_ref().map_or("", Why::text);
        let between = if event.detail.is_empty() || reason.is_empty() { "" } else { ": " };
        let told = format!("{after:>5} ms  {:<16}{}{between}", event.step.name(), event.detail);
        stage.narrator.say(&Line::of(&told, Tone::Faint).then(reason, Tone::Bad));
    }
}

fn demand(is_so: bool, who: &str, expected: &str, came: &str) -> Result<(), Failure> {
    if is_so {
        return Ok(());
    }
    Err(Failure::Unexpected { who: who.to_owned(), expected: expected.to_owned(), came: format!("{came} came") })
}
