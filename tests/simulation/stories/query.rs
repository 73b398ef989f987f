//! What the proxy says of push: Feature-Caps, queries, 555 (RFC 8599 §4.1, §5.6.1).

use std::sync::Arc;

use sip_push_proxy::binding::Provider;
use sip_push_proxy::sip::HeaderName;

use crate::sim::Sim;
use crate::support::Support;
use crate::text;

fn caps(sim: &Sim, push: &str, params: &str) -> Vec<String> {
    let alice = sim.phone("alice");
    alice.change(|agent| {
        agent.device.push = push.into();
        agent.device.params = params.into();
    });
    text::values(&alice.registers().response(), HeaderName::FeatureCaps)
}

#[test]
fn a_query_gets_what_it_asks_for() {
    assert_eq!(
        caps(&Sim::new(), ";pn-provider", ""),
        ["*;+sip.pns=\"fcm\"", "*;+sip.pns=\"apns\"", "*;+sip.pns=\"apns.dev\""]
    );
    assert_eq!(caps(&Sim::new(), ";pn-provider=apns", ""), ["*;+sip.pns=\"apns\""]);
    assert_eq!(caps(&Sim::new(), ";pn-provider=other", ""), [""; 0]);
}

#[test]
fn a_phone_that_wakes_itself_is_told_when() {
    let push = ";pn-provider=fcm;pn-param=p;pn-prid=t";
    assert_eq!(caps(&Sim::new(), push, ";+sip.pnsreg"), ["*;+sip.pns=\"fcm\";+sip.pnsreg=\"121\""]);
}

#[test]
fn the_registrar_is_told_as_well() {
    let sim = Sim::new();
    caps(&sim, ";pn-provider=fcm;pn-param=p;pn-prid=t", "");
    let register = &sim.switch().got("REGISTER")[0];
    assert_eq!(text::first(register, HeaderName::FeatureCaps), "*;+sip.pns=\"fcm\"");
}

#[test]
fn a_proxy_nearer_to_the_phone_does_it_alone() {
    let sim = Sim::new();
    let alice = sim.phone("alice");
    alice.change(|agent| agent.device.headers = vec!["Feature-Caps: *;+sip.pns=\"fcm\"".into()]);
    let register = alice.registers();
    assert_eq!(register.header(HeaderName::FeatureCaps), "");
    assert!(sim.bindings()[0].push.is_none());
}

#[test]
fn unusable_push_parameters_leave_a_plain_contact_with_a_reason() {
    for push in [";pn-provider=other;pn-prid=t", ";pn-provider=apns;pn-param=T.b.voip;pn-prid=xyz"] {
        let sim = Sim::new();
        assert_eq!(caps(&sim, push, ""), [""; 0]);
        let binding = &sim.bindings()[0];
        assert!(binding.push.is_none() && binding.push_refused.is_some());
    }
}

#[test]
fn unusable_push_parameters_are_555_where_the_operator_says_so() {
    for push in [";pn-provider=other;pn-prid=t", ";pn-provider=other", ";pn-provider=apns;pn-param=x;pn-prid=xyz"] {
        let sim = Sim::with(|policy| policy.registrar.refuse_unsupported_pns = true);
        let alice = sim.phone("alice");
        alice.change(|agent| agent.device.push = push.into());
        assert_eq!(alice.tries_to_register().status(), Some(555));
    }
}

#[test]
fn a_provider_that_is_switched_off_is_not_announced() {
    let sim = Sim::with(|policy| policy.push = Arc::new(Support { off: [Provider::Fcm].into(), ..Support::default() }));
    assert_eq!(caps(&sim, ";pn-provider=fcm;pn-param=p;pn-prid=t", ""), [""; 0]);
    assert!(sim.bindings()[0].push.is_none());
}
