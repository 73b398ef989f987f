//! The whole story on loopback: the real server between a scripted softswitch, scripted phones and doubles of the push
//! services, over real sockets.
//!
//! Nothing that is shown is made up. Each arrow is drawn by the actor that sent or received the message, at the time
//! when it did, and each story fails if something else comes than it tells.

pub mod apns_double;
pub mod callback_double;
mod dialog;
mod double;
pub mod fcm_double;
pub mod google_double;
pub mod harmony_double;
pub mod hms_double;
mod ladder;
mod line;
mod narrator;
mod peer;
mod phone;
mod push_desk;
pub mod rustore_double;
pub mod service_double;
mod softswitch;
mod stage;
mod stories;
pub mod subscriber;
mod summary;
pub mod webpush_double;

use std::process::ExitCode;

pub use double::{Observer, Recorded};

use ladder::Ladder;
use line::{Line, Tone};
use narrator::Narrator;
use peer::Failure;
use stage::Stage;
use stories::Story;
use summary::Told;

const INTRO: [&str; 5] = [
    "Real: this proxy with its store, its UDP and TCP sockets, and its HTTP requests.",
    "Played by scripts on this machine: the softswitch, phones, all push services.",
    "Every arrow is a message that was sent and received, drawn at that moment.",
    "Should anything come that the story does not tell, the demo fails and says what.",
    "",
];
const NEXT: [&str; 2] = [
    "Next: copy config.toml.example to config.toml, change what says CHANGE, and run",
    "      sip-push-proxy check && sip-push-proxy serve",
];

/// Plays the whole story on loopback. Succeeds only if all went as told.
pub fn run() -> ExitCode {
    let narrator = Narrator::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let played = runtime.map_err(|error| Failure::Io { what: "cannot begin", error }).and_then(|runtime| {
        runtime.block_on(async {
            tokio::select! {
                played = play(&narrator) => played,
                _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
            }
        })
    });
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            narrator.end();
            narrator.say(&Line::of(&format!("✗ {failure}"), Tone::Bad));
            ExitCode::FAILURE
        }
    }
}

async fn play(narrator: &Narrator) -> Result<(), Failure> {
    narrator.say(&Line::of("sip-push-proxy demo", Tone::Strong));
    narrator.say(&Line::default());
    for line in INTRO {
        narrator.say(&Line::of(line, Tone::Plain));
    }
    let mut stage = Stage::set(narrator.clone()).await?;
    let mut told = Vec::new();
    let mut played = Ok(());
    for (number, story) in (1..).zip(Story::ALL) {
        played = tell(&mut stage, number, story, &mut told).await;
        if played.is_err() {
            break;
        }
    }
    narrator.end();
    narrator.say(&Line::default());
    for line in summary::table(&told) {
        narrator.say(&line);
    }
    narrator.say(&Line::default());
    let struck = stage.strike().await;
    played.and(struck)?;
    for line in NEXT {
        narrator.say(&Line::of(line, Tone::Plain));
    }
    Ok(())
}

async fn tell(stage: &mut Stage, number: usize, story: Story, told: &mut Vec<Told>) -> Result<(), Failure> {
    let narrator = stage.narrator.clone();
    let prepared = story.prepare(stage).await;
    let (calls, pushes) = (stage.softswitch.calls(), stage.push.count());

    narrator.say(&Line::default());
    narrator.say(&ladder::title(number, story.title()));
    for line in story.point() {
        narrator.say(&Line::of(&format!("   {line}"), Tone::Plain));
    }
    narrator.say(&Line::default());
    narrator.begin(Ladder::new(&story.lanes()));
    for actor in story.asleep() {
        narrator.set_asleep(*actor, true);
    }
    let played = match prepared {
        Ok(()) => story.play(stage).await,
        Err(failure) => Err(failure),
    };
    let played = played.and_then(|result| stage.expect_no_more().map(|()| result));
    narrator.end();
    match &played {
        Ok(_) => {
            narrator.say(&Line::default());
            narrator.say(&Line::of(&format!("    ✓ {}", story.outcome()), Tone::Good));
        }
        Err(_) => stories::tell_why(stage, &format!("call-{}", stage.softswitch.calls())),
    }
    told.push(Told {
        title: story.title(),
        calls: stage.softswitch.calls() - calls,
        pushes: stage.push.count() - pushes,
        wakes: stage.take_wakes(),
        result: played.as_ref().ok().copied(),
    });
    played.map(drop).map_err(|failure| Failure::Story { number, failure: Box::new(failure) })
}
