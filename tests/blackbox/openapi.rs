//! That the running server answers as its OpenAPI document says, whatever it is asked: requests made by Schemathesis from
//! that document, good and bad ones.

use std::path::Path;
use std::process::Command;

use sip_push_proxy::sip::Transport::Udp;

use crate::held_call::{asleep, missed_call};
use crate::phone::Push;
use crate::world::{Mode, World};

#[test]
fn server_answers_as_its_document_says() {
    let mut world = World::with_program(Mode::Alias, Udp, "");
    let phone = asleep(&mut world, Push::Fcm);
    missed_call(&world, &phone);
    let schemathesis = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/schemathesis/bin/st");
    let document = format!("http://{}/api/openapi.json", world.admin.0);
    let mut command = Command::new(schemathesis);
    command.args(["run", &document, "--no-color", "--phases", "coverage,fuzzing", "--max-examples", "10"]);
    // The stream of events has no end. What is right by its form may still name nobody, which is answered 400 or 422.
    command.args(["--exclude-path", "/api/v1/events", "--exclude-checks", "positive_data_acceptance"]);
    let done = command.current_dir(world.folder.path()).output().expect("schemathesis, which tests/run installs");
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{said}");
    assert!(said.contains("Tested: 21"), "{said}");
    world.admin.expect_healthy();
}
