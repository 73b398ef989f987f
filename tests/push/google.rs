//! FCM without a key file: the machine's own account, and tokens of another identity provider.

use sip_push_proxy::demo::fcm_double::{FcmDouble, PROJECT_ID};
use sip_push_proxy::demo::google_double::{GoogleDouble, Subject};
use sip_push_proxy::push::{Outcome, Pushers, Settings, SettingsError, fcm};
use tokio::runtime::Handle;

use crate::bench::*;

fn settings(double: &FcmDouble, account: fcm::Settings) -> Settings {
    let account = fcm::Settings { project_id: PROJECT_ID.to_owned(), endpoint: double.url(), ..account };
    Settings { fcm: vec![account], per_token_per_min: 0, ..Settings::default() }
}

fn of_machine(double: &FcmDouble, endpoint: String) -> Settings {
    settings(double, fcm::Settings { metadata_endpoint: Some(endpoint), ..fcm::Settings::default() })
}

#[tokio::test]
async fn the_account_of_the_machine_needs_no_file() {
    let double = FcmDouble::start().await.unwrap();
    let google = GoogleDouble::start(&double).await.unwrap();
    let pushers = open(&of_machine(&double, google.url()));
    for _ in 0..2 {
        assert_eq!(outcome(&pushers, invite(fcm_target("a"))).await, Outcome::Accepted);
        assert_eq!(soon(double.next()).await.header("authorization"), "Bearer ya29.machine-0");
    }
    let path = "/computeMetadata/v1/instance/service-accounts/default/token";
    assert_eq!(google.paths(), [path], "the token is kept");
    double.revoke_access_tokens();
    assert_eq!(outcome(&pushers, invite(fcm_target("a"))).await, Outcome::Accepted);
    assert_eq!(google.paths(), [path, path]);
}

#[tokio::test]
async fn a_machine_without_an_account_or_without_a_metadata_server_is_told() {
    let double = FcmDouble::start().await.unwrap();
    let google = GoogleDouble::start(&double).await.unwrap();
    google.detach_account();
    let told = outcome(&open(&of_machine(&double, google.url())), invite(fcm_target("a"))).await;
    assert_eq!(told, locked("metadata server: 404; this machine runs as no service account"));
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let pushers = open(&of_machine(&double, format!("http://{closed}")));
    let told = outcome(&pushers, invite(fcm_target("a"))).await;
    assert!(trouble(&told).starts_with("no connection: "), "{told:?}");
    assert_eq!(double.requests(), 0);
}

#[tokio::test]
async fn an_external_account_changes_its_token_for_googles() {
    let double = FcmDouble::start().await.unwrap();
    for (subject, impersonates, asked) in [
        (Subject::File, false, ["/v1/token"].as_slice()),
        (Subject::Url, false, &["/subject", "/v1/token"]),
        (Subject::File, true, &["/v1/token", ":generateAccessToken"]),
    ] {
        let google = GoogleDouble::start(&double).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let service_account = google.write_external_account(folder.path(), subject, impersonates).unwrap();
        let settings = settings(&double, fcm::Settings { service_account, ..fcm::Settings::default() });
        let pushers = open(&settings);
        for token in ["a", "b"] {
            assert_eq!(outcome(&pushers, invite(fcm_target(token))).await, Outcome::Accepted, "{subject:?}");
        }
        let paths = google.paths();
        assert_eq!(paths.len(), asked.len(), "{paths:?}");
        assert!(paths.iter().zip(asked).all(|(path, end)| path.ends_with(end)), "{paths:?}");
    }
}

#[tokio::test]
async fn what_is_wrong_with_an_external_account_is_told() {
    let double = FcmDouble::start().await.unwrap();
    let google = GoogleDouble::start(&double).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let service_account = google.write_external_account(folder.path(), Subject::File, true).unwrap();
    let settings = settings(&double, fcm::Settings { service_account: service_account.clone(), ..Default::default() });
    let subject = folder.path().join("subject.token");

    std::fs::write(&subject, "of somebody else").unwrap();
    let told = outcome(&open(&settings), invite(fcm_target("a"))).await;
    assert_eq!(told, locked("token endpoint: 400 invalid_grant: The subject_token is not as it must be."));
    std::fs::write(&subject, "\n").unwrap();
    let told = outcome(&open(&settings), invite(fcm_target("a"))).await;
    assert_eq!(told, locked("subject token: its source has none"));
    std::fs::remove_file(&subject).unwrap();
    let told = outcome(&open(&settings), invite(fcm_target("a"))).await;
    let Outcome::Locked { reason } = &told else { panic!("{told:?}") };
    assert!(reason.contains("subject.token cannot be read: No such file"), "{reason}");

    let mut file: serde_json::Value = serde_json::from_slice(&std::fs::read(&service_account).unwrap()).unwrap();
    google.write_external_account(folder.path(), Subject::File, true).unwrap();
    file["service_account_impersonation"] = serde_json::json!({"token_lifetime_seconds": 7200});
    std::fs::write(&service_account, file.to_string()).unwrap();
    let told = outcome(&open(&settings), invite(fcm_target("a"))).await;
    assert_eq!(told, locked("impersonation: 403 Permission denied on resource."));
    assert_eq!(double.requests(), 0);
}

#[tokio::test]
async fn a_project_that_no_file_names_has_to_be_a_setting() {
    let double = FcmDouble::start().await.unwrap();
    let google = GoogleDouble::start(&double).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let service_account = google.write_external_account(folder.path(), Subject::File, false).unwrap();
    let external = fcm::Settings { service_account, ..fcm::Settings::default() };
    let of_machine = fcm::Settings { metadata_endpoint: Some(google.url()), ..fcm::Settings::default() };
    for account in [external, of_machine] {
        let settings = Settings { fcm: vec![account], ..Settings::default() };
        let Err(SettingsError::Value { key, problem }) = Pushers::open(&settings, Handle::current()).map(drop) else {
            panic!("it is opened")
        };
        assert_eq!(
            (key.as_str(), problem.as_str()),
            ("push.fcm[0].project_id", "needed: the credentials do not name it")
        );
    }
    // A service account may push for another project than its own.
    let (_folder, mut settings) = fcm_settings(&double);
    settings.fcm[0].project_id = "other-project".to_owned();
    let preview = open(&settings).preview(&invite(fcm_target("a"))).unwrap();
    assert!(preview.url.contains("/v1/projects/other-project/"), "{}", preview.url);
}
