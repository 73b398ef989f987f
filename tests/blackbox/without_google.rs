//! Phones that have nothing of Google's or Apple's are woken by the services that they have.

use sip_push_proxy::demo::fcm_double::{self, FcmDouble, PROJECT_ID};
use sip_push_proxy::demo::google_double::{GoogleDouble, Subject};
use sip_push_proxy::demo::harmony_double::{self, illegal_token};
use sip_push_proxy::demo::hms_double::{self, HmsDouble, code};
use sip_push_proxy::demo::rustore_double::{self, refusal};
use sip_push_proxy::demo::service_double::ServiceDouble;
use sip_push_proxy::sip::Transport::Udp;
use tempfile::TempDir;

use crate::check::{NOBODY, answers};
use crate::gateways::{MODES, is_woken, next, phone};
use crate::held_call::give_up;
use crate::peer::{RUNTIME, eventually};
use crate::phone::Phone;
use crate::world::{Mode, World};

/// A call is held and ends with its push; what the operator is told of it.
#[track_caller]
fn fails(world: &World, phone: &Phone) -> String {
    let call = world.call(phone);
    world.switch.queued();
    call.ack(&world.switch.response(480, "INVITE"));
    world.admin.story(&call.call_id, "push_failed");
    world.admin.get(&format!("/api/v1/calls/{}", call.call_id)).to_string()
}

/// A call that nobody takes, and the number of its caller; its phone learns of it when it is back.
#[track_caller]
fn is_missed(world: &mut World, phone: &mut Phone, pushed: impl FnOnce()) {
    phone.sleep();
    let missed = world.call(phone);
    world.switch.queued();
    pushed();
    give_up(world, &missed, "");
    world.admin.expect_bucket(&phone.aor(), &[(&missed.call_id, "missed")]);
    phone.register(world);
}

/// RuStore, and the configuration that names it. The folder holds the service token.
fn rustore() -> (ServiceDouble, TempDir, String) {
    let double = RUNTIME.block_on(rustore_double::start()).expect("a double");
    let folder = TempDir::new().expect("a folder");
    let token_file = rustore_double::write_credentials(folder.path()).expect("written");
    let config = format!(
        "[[push.rustore]]\nproject_id = '{}'\ntoken_file = '{}'\nendpoint = '{}'\n",
        rustore_double::PROJECT_ID,
        token_file.display(),
        double.url()
    );
    (double, folder, config)
}

#[test]
fn rustore_wakes_a_sleeping_phone_and_tells_it_of_missed_calls() {
    for mode in MODES {
        let (double, _folder, config) = rustore();
        let mut world = World::with(mode, Udp, &config);
        let mut phone = phone(";pn-provider=rustore;pn-prid=token-1");
        let accepted = phone.register(&mut world);
        assert_eq!(accepted.headers("Feature-Caps"), ["*;+sip.pns=\"rustore\""]);
        phone.sleep();
        let call = world.call(&phone);
        world.switch.queued();
        let push = next(double.next());
        assert_eq!(push.header("authorization"), "Bearer throwaway-service-token", "{mode:?}");
        let body = push.json();
        let (data, date) = (&body["message"]["data"], &body["message"]["data"]["date"]);
        assert_eq!(*data, serde_json::json!({"type": "invite", "date": date}));
        assert_eq!(body["message"]["token"], "token-1");
        assert_eq!(body["message"]["android"], serde_json::json!({"ttl": "28s"}));
        is_woken(&mut world, &mut phone, &call);

        is_missed(&mut world, &mut phone, || drop(next(double.next())));
        let told = next(double.next()).json()["message"]["data"].clone();
        assert_eq!(told["type"], "missed_calls");
        assert!(told["calls"].as_str().is_some_and(|calls| calls.contains(r#""remote_uri":"103""#)), "{told}");
        world.admin.expect_bucket(&phone.aor(), &[]);
        assert_eq!((double.requests(), world.pushes()), (3, 0));
        world.admin.expect_healthy();
        world.stop();
    }
}

#[test]
fn a_wrong_service_token_costs_no_binding_and_a_token_that_is_gone_does() {
    let (double, _folder, config) = rustore();
    let mut world = World::with(Mode::Alias, Udp, &config);
    let mut phone = phone(";pn-provider=rustore;pn-prid=token-1;pn-param=demo-rustore");
    phone.register(&mut world);
    phone.sleep();
    double.script("token-1", [refusal(403, "PERMISSION_DENIED", "bad key")]);
    let told = fails(&world, &phone);
    assert!(told.contains("403 PERMISSION_DENIED: bad key") && told.contains("credentials_refused"), "{told}");
    // Nothing was ever taken: the settings may be another project's.
    double.script("token-1", [refusal(404, "NOT_FOUND", "Requested entity was not found.")]);
    assert!(fails(&world, &phone).contains("404 NOT_FOUND; no push of this account was taken so far"));
    assert_eq!(world.admin.bindings(&phone.aor()).len(), 1);

    phone.register(&mut world);
    phone.sleep();
    let call = world.call(&phone);
    world.switch.queued();
    next(double.next());
    is_woken(&mut world, &mut phone, &call);
    phone.sleep();
    double.script("token-1", [refusal(404, "NOT_FOUND", "Requested entity was not found.")]);
    let told = fails(&world, &phone);
    assert!(told.contains("404 NOT_FOUND") && !told.contains("token-1"), "{told}");
    eventually("the binding to end", || world.admin.bindings(&phone.aor()).is_empty().then_some(()));
    world.stop();
}

#[test]
fn a_service_token_replaced_in_its_file_is_in_effect_after_a_reload() {
    let (double, folder, config) = rustore();
    let token_file = folder.path().join("rustore.token");
    let good = std::fs::read(&token_file).expect("read");
    std::fs::write(&token_file, "of-another-project").expect("written");
    let mut world = World::with_program(Mode::Alias, Udp, &config);
    let mut phone = phone(";pn-provider=rustore;pn-prid=token-1");
    phone.register(&mut world);
    phone.sleep();
    assert!(fails(&world, &phone).contains("403 PERMISSION_DENIED"));
    std::fs::write(&token_file, good).expect("written");
    let (told, code) = world.command(&["reload"]);
    assert!(code == Some(0) && told.contains("push.rustore[0].token_file"), "{told}");
    let call = world.call(&phone);
    world.switch.queued();
    next(double.next());
    is_woken(&mut world, &mut phone, &call);
    world.stop();
}

/// Huawei's service for phones with Android, and the configuration that names it. The folder holds the client secret.
pub(crate) fn hms() -> (HmsDouble, TempDir, String) {
    let double = RUNTIME.block_on(HmsDouble::start()).expect("a double");
    let folder = TempDir::new().expect("a folder");
    let secret = double.write_credentials(folder.path()).expect("written");
    let config = format!(
        "[[push.hms]]\nproject_id = '{}'\nclient_id = '{}'\nclient_secret_file = '{}'\nendpoint = '{}'\n\
         token_endpoint = '{}'\n",
        hms_double::PROJECT_ID,
        hms_double::CLIENT_ID,
        secret.display(),
        double.service.url(),
        double.token_endpoint()
    );
    (double, folder, config)
}

#[test]
fn hms_wakes_a_sleeping_phone_and_tells_it_of_missed_calls() {
    for mode in MODES {
        let (double, _folder, config) = hms();
        let mut world = World::with(mode, Udp, &config);
        let mut phone = phone(";pn-provider=hms;pn-prid=token-1");
        let accepted = phone.register(&mut world);
        assert_eq!(accepted.headers("Feature-Caps"), ["*;+sip.pns=\"hms\""]);
        phone.sleep();
        let call = world.call(&phone);
        world.switch.queued();
        let push = next(double.service.next());
        assert!(push.header("authorization").starts_with("Bearer CgB6e3x9/double+"), "{mode:?}");
        let message = push.json()["message"].clone();
        assert_eq!(message["android"], serde_json::json!({"urgency": "HIGH", "ttl": "28s", "category": "VOIP"}));
        assert_eq!(message["token"], serde_json::json!(["token-1"]));
        assert!(message["data"].as_str().is_some_and(|data| data.starts_with(r#"{"type":"invite","date":""#)));
        is_woken(&mut world, &mut phone, &call);

        is_missed(&mut world, &mut phone, || drop(next(double.service.next())));
        let told = next(double.service.next()).json()["message"]["data"].clone();
        assert!(told.as_str().is_some_and(|data| data.starts_with(r#"{"type":"missed_calls","#)), "{told}");
        world.admin.expect_bucket(&phone.aor(), &[]);
        assert_eq!((double.service.requests(), world.pushes(), double.token_fetches()), (3, 0, 1));
        world.admin.expect_healthy();
        world.stop();
    }
}

#[test]
fn codes_of_hms_are_told_and_end_a_binding_only_when_the_token_is_gone() {
    let (double, _folder, config) = hms();
    let mut world = World::with(Mode::Alias, Udp, &config);
    // As apps call it.
    let mut phone = phone(";pn-provider=huawei;pn-prid=token-1");
    phone.register(&mut world);
    phone.sleep();
    double.service.script("token-1", [code("80300002", "No permission to send message to these tmIDs.")]);
    let told = fails(&world, &phone);
    assert!(told.contains("200 80300002: No permission") && told.contains("token_misfit"), "{told}");
    assert_eq!(world.admin.bindings(&phone.aor()).len(), 1);
    phone.register(&mut world);
    phone.sleep();
    // An access token that has ended is fetched anew within the attempt.
    double.revoke_access_tokens();
    let call = world.call(&phone);
    world.switch.queued();
    next(double.service.next());
    is_woken(&mut world, &mut phone, &call);
    phone.sleep();
    double.service.script("token-1", [code("80300007", "All the tokens are invalid")]);
    assert!(fails(&world, &phone).contains("200 80300007"));
    eventually("the binding to end", || world.admin.bindings(&phone.aor()).is_empty().then_some(()));
    world.stop();
}

/// The service of HarmonyOS, and the configuration that names it. The folder holds the service account.
fn harmony() -> (ServiceDouble, TempDir, String) {
    let double = RUNTIME.block_on(harmony_double::start()).expect("a double");
    let folder = TempDir::new().expect("a folder");
    let account = harmony_double::write_credentials(folder.path()).expect("written");
    let config =
        format!("[[push.harmony]]\nservice_account = '{}'\nendpoint = '{}'\n", account.display(), double.url());
    (double, folder, config)
}

#[test]
fn harmony_wakes_a_sleeping_phone_and_shows_it_missed_calls() {
    for mode in MODES {
        let (double, _folder, config) = harmony();
        let mut world = World::with(mode, Udp, &config);
        let mut phone = phone(";pn-provider=harmony;pn-prid=token-1");
        let accepted = phone.register(&mut world);
        assert_eq!(accepted.headers("Feature-Caps"), ["*;+sip.pns=\"harmony\""]);
        phone.sleep();
        let call = world.call(&phone);
        world.switch.queued();
        let push = next(double.next());
        assert_eq!((push.header("push-type"), &push.json()["pushOptions"]["ttl"]), ("10", &28.into()), "{mode:?}");
        assert_eq!(push.json()["target"], serde_json::json!({"token": ["token-1"]}));
        is_woken(&mut world, &mut phone, &call);

        is_missed(&mut world, &mut phone, || drop(next(double.next())));
        let push = next(double.next());
        assert_eq!(push.header("push-type"), "0");
        assert_eq!(push.json()["payload"]["notification"]["category"], "MISS_CALL");
        assert_eq!(push.json()["payload"]["notification"]["body"], "1 missed call");
        world.admin.expect_bucket(&phone.aor(), &[]);
        assert_eq!((double.requests(), world.pushes()), (3, 0));
        world.admin.expect_healthy();
        world.stop();
    }
}

#[test]
fn a_right_that_a_project_of_huawei_lacks_is_told_and_costs_no_binding() {
    let (double, _folder, config) = harmony();
    let mut world = World::with(Mode::Alias, Udp, &config);
    let mut phone = phone(";pn-provider=harmony;pn-prid=token-1");
    phone.register(&mut world);
    phone.sleep();
    for (why, code) in [("noPushTypeRight", "credentials_refused"), ("noRight", "token_misfit")] {
        double.script("token-1", [illegal_token(why, "token-1")]);
        let told = fails(&world, &phone);
        assert!(told.contains(&format!("200 80300007: {why}")) && told.contains(code), "{told}");
    }
    assert_eq!(world.admin.bindings(&phone.aor()).len(), 1);
    world.stop();
}

/// FCM and what grants its tokens without a key file, and the configuration that names both: by the account of the machine,
/// or by an external one with its token there. The folder holds the external account.
fn fcm(subject: Option<Subject>) -> (FcmDouble, GoogleDouble, TempDir, String) {
    let fcm = RUNTIME.block_on(FcmDouble::start()).expect("a double");
    let google = RUNTIME.block_on(GoogleDouble::start(&fcm)).expect("a double");
    let folder = TempDir::new().expect("a folder");
    let credentials = match subject {
        None => format!("credentials = 'metadata'\nmetadata_endpoint = '{}'\n", google.url()),
        Some(subject) => {
            let file = google.write_external_account(folder.path(), subject, true).expect("written");
            format!("service_account = '{}'\n", file.display())
        }
    };
    let config = format!("[[push.fcm]]\nproject_id = '{PROJECT_ID}'\nendpoint = '{}'\n{credentials}", fcm.url());
    (fcm, google, folder, config)
}

#[test]
fn fcm_is_reached_without_any_key_file() {
    for subject in [None, Some(Subject::File), Some(Subject::Url)] {
        let (fcm, _google, _folder, config) = fcm(subject);
        let mut world = World::with(Mode::Alias, Udp, &config);
        let mut phone = phone(";pn-provider=fcm;pn-prid=token-1");
        phone.register(&mut world);
        phone.sleep();
        let call = world.call(&phone);
        world.switch.queued();
        assert!(next(fcm.next()).header("authorization").starts_with("Bearer ya29."), "{subject:?}");
        is_woken(&mut world, &mut phone, &call);
        assert_eq!(fcm.token_fetches(), 0);
        world.stop();
    }
}

#[test]
fn a_phone_with_two_services_is_woken_by_the_second_when_the_first_does_not_take_the_push() {
    for mode in MODES {
        let (double, _folder, config) = rustore();
        let mut world = World::with(mode, Udp, &config);
        let params =
            ";pn-provider=rustore;pn-prid=of-rustore;pn-provider-2=fcm;pn-prid-2=of-fcm;pn-param-2=demo-project";
        let mut phone = phone(params);
        let accepted = phone.register(&mut world);
        let caps = accepted.headers("Feature-Caps").join(", ");
        assert!(caps.contains("+sip.pns=\"rustore\"") && caps.contains("+sip.pns=\"fcm\""), "{caps}");
        let shown = world.admin.bindings(&phone.aor());
        let tokens = shown[0]["tokens"].as_array().expect("tokens");
        let uses: Vec<_> = tokens.iter().filter_map(|token| token["for"].as_str()).collect();
        assert_eq!((shown.len(), uses), (1, vec!["any", "fcm"]), "{shown:?}");
        phone.sleep();

        double.script("of-rustore", [refusal(404, "UNREGISTERED", "")]);
        let call = world.call(&phone);
        world.switch.queued();
        assert_eq!(next(world.fcm.next()).token, "of-fcm", "{mode:?}");
        eventually("the push to be accepted", || {
            let steps = world.admin.get(&format!("/api/v1/calls/{}", call.call_id))["steps"].to_string();
            steps.contains(" ms, fcm").then_some(())
        });
        is_woken(&mut world, &mut phone, &call);
        for (provider, result) in [("rustore", "token_dead"), ("fcm", "accepted")] {
            let sample = format!("pushes_total{{provider=\"{provider}\",type=\"invite\",result=\"{result}\"}}");
            world.admin.expect_metric(&sample, 1.0);
        }

        phone.sleep();
        double.script("of-rustore", [refusal(503, "UNAVAILABLE", ""), refusal(404, "UNREGISTERED", "")]);
        world.fcm.script(
            "of-fcm",
            [fcm_double::Answer::Unavailable { retry_after_s: None }, fcm_double::Answer::Unregistered],
        );
        let told = fails(&world, &phone);
        assert!(told.contains("rustore: 503 UNAVAILABLE, fcm: 503 UNAVAILABLE"), "{told}");
        assert!(told.contains("rustore: 404 UNREGISTERED, fcm: 404 UNREGISTERED"), "{told}");
        eventually("the binding to end", || world.admin.bindings(&phone.aor()).is_empty().then_some(()));
        world.stop();
    }
}

#[test]
fn a_repetition_goes_to_the_service_that_took_the_push() {
    let (double, _folder, config) = rustore();
    let mut world = World::with(Mode::Alias, Udp, &format!("push.repeat_s = [1]\n{config}"));
    let mut phone = phone(";pn-provider=rustore;pn-prid=of-rustore;pn-provider-2=fcm;pn-prid-2=of-fcm");
    phone.register(&mut world);
    phone.sleep();
    double.script("of-rustore", [refusal(404, "UNREGISTERED", "")]);
    let call = world.call(&phone);
    world.switch.queued();
    assert_eq!(next(world.fcm.next()).token, "of-fcm");
    assert_eq!(next(world.fcm.next()).token, "of-fcm");
    give_up(&world, &call, "");
    assert_eq!(double.requests(), 1);
    world.stop();
}

#[test]
fn softswitch_hears_nothing_of_further_services() {
    for mode in [Mode::Alias, Mode::Path] {
        let (_double, _folder, config) = rustore();
        let world = World::with(mode, Udp, &config);
        let mut phone = phone(";pn-provider=rustore;pn-prid=of-rustore;pn-provider-2=fcm;pn-prid-2=of-fcm;x=1");
        phone.wake(&world);
        phone.send_register();
        let (register, _) = world.switch.peer.request("REGISTER");
        let sent = register.headers("Contact").join(", ");
        assert!(!sent.contains("pn-") && !sent.contains("of-"), "{sent}");
        assert_eq!(sent.contains(";x=1"), mode == Mode::Path, "{sent}");
        world.stop();
    }
}

#[test]
fn what_is_configured_is_asked_by_check() {
    let (rustore, _first, of_rustore) = rustore();
    let (hms, _second, of_hms) = hms();
    let (harmony, _third, of_harmony) = harmony();
    let (fcm, _google, folder, of_fcm) = fcm(Some(Subject::File));
    let world = World::with(Mode::Alias, Udp, &[of_rustore, of_hms, of_harmony, of_fcm].concat());
    fcm.script(NOBODY, [fcm_double::Answer::InvalidToken]);
    rustore.script(NOBODY, [refusal(404, "NOT_FOUND", "")]);
    hms.service.script(NOBODY, [code("80300007", "All the tokens are invalid")]);
    harmony.script(NOBODY, [illegal_token("tokenFormatError", NOBODY)]);
    let (said, _) = answers(&world);
    for expected in [
        "well:       fcm project demo-project: it takes our credentials (",
        "well:       rustore project demo-rustore: it takes our credentials (404 NOT_FOUND",
        "well:       hms project 388421841221000001: it takes our credentials (200 80300007",
        "well:       harmony project 388421841221000002: it takes our credentials (200 80300007: tokenFormatError",
    ] {
        assert!(said.contains(expected), "{expected}\n{said}");
    }
    std::fs::remove_file(folder.path().join("subject.token")).expect("removed");
    hms.service.script(NOBODY, [(); 2].map(|()| code("80200001", "OAuth authentication error")));
    let (said, code) = answers(&world);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("NOT WELL:   fcm project demo-project: subject token: "), "{said}");
    assert!(said.contains("NOT WELL:   hms project 388421841221000001: 200 80200001: OAuth"), "{said}");
    world.stop();
}
