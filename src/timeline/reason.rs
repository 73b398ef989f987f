//! Why a step of a call came out as it did: a closed list, for programs and for people (docs/reasons.md).

use std::borrow::Cow;

macro_rules! reasons {
    ($($variant:ident, $code:literal, $meaning:literal, $remedy:literal;)+) => {
        /// Why a step came out as it did.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($variant),+ }

        impl Reason {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// For programs.
            pub fn code(self) -> &'static str {
                match self { $(Self::$variant => $code),+ }
            }

            /// What happened, in a few words.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => $meaning),+ }
            }

            /// What can be done about it; empty where nothing is wrong.
            pub fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy),+ }
            }
        }
    };
}

reasons! {
    NoPushParameters, "no_push_parameters", "registration expired, and it has no push parameters",
        "the app must send pn-provider and pn-prid in the Contact of its REGISTER (RFC 8599)";
    PushParametersUnusable, "push_parameters_unusable", "registration expired, and its push parameters are unusable",
        "the app sends push parameters that nobody can use; `bindings AOR` shows what is wrong with them";
    ProviderOff, "provider_off", "the contact's push service is not configured",
        "configure an account for it under [[push.fcm]], [[push.apns]], [[push.rustore]], [[push.hms]], [[push.harmony]], \
         [push.webpush] or [push.callback], or have the app name one that is there";
    NoRemoteToken, "no_remote_token", "the contact has a voip token alone, and that takes calls only",
        "the app must register its remote token beside the voip token";
    TokenMisfit, "token_misfit", "the token is another app's, for another use, or none at all",
        "compare the app's bundle, team and environment (apns or apns.dev) or its Firebase project with the account; \
         the device is pushed again when it registers anew, after a reload, or when `push AOR` works";
    DeathDoubted, "death_doubted", "too many tokens of the account are called dead at once, so it is not believed",
        "compare the account's key and project with the apps'; the device is pushed again when it registers anew, after \
         a reload, or when `push AOR` works; push.dead_per_min is the limit";
    TokenDead, "token_dead", "the push service does not know the token any more",
        "nothing here: the app was removed, or it must fetch a new token and register with it";
    CredentialsRefused, "credentials_refused", "the push service refuses our credentials or rights",
        "`check --online` says which; renew the key, the certificate or the service account's role, then reload";
    PushRefused, "push_refused", "the push service does not take this push",
        "the answer says what it does not like; `push AOR --dry-run` shows what is sent";
    TooManyAors, "too_many_aors", "the token is of more users than it may serve, and the others registered later",
        "an app is to unregister accounts that it does not use any more; users that are strangers to each other mean that \
         somebody has got hold of a token; push.aors_per_token_max is the limit of this server";
    UserUnknown, "user_unknown", "the user is not among those of register.users",
        "a call to it is answered 404; what it has registered works again when the user is put back and the server \
         reloads";
    PushesLimited, "pushes_limited", "too many pushes to this token in the last minute",
        "an app that is called so often, or a loop of calls; push.per_token_per_min is the limit of this server";
    ProviderSilent, "provider_silent", "the push service did not answer in time",
        "look at its status page and at the way to it; push.timeout_ms is the time of one attempt";
    ProviderFailing, "provider_failing", "the push service has trouble or cannot be reached",
        "look at its status page and at the way to it (`check --online`); it is tried again by itself";
    ProviderPaused, "provider_paused", "the push service failed for several phones in a row and is asked now and then only",
        "`/readyz` names the account and what it answered; the call is pushed when it works again, unless that comes after \
         the call's wait";
    PushQueueFull, "push_queue_full", "more pushes are under way than there is room for",
        "the push service is slow, or limits.push_queue is too small for this many calls";
    StoreFailed, "store_failed", "the call could not be made durable",
        "look at Redis, or at the disk under node.data_dir; `/readyz` says how the store is";
    DeviceSilent, "device_silent", "the device did not answer the INVITE",
        "a NAT or a firewall lost the way to it, or the app sleeps again; it is pushed when it can be";
    FlowLost, "flow_lost", "the device's flow is gone",
        "nothing: it is pushed when it can be";
    AwakeByConnection, "awake_by_connection", "it answered the push by its open connection",
        "";
    CallOver, "call_over", "the call is over",
        "the phone came too late; `tune` says what a longer hold.wait_s would have brought";
    InviteAndCancel, "invite_and_cancel", "INVITE and CANCEL",
        "";
    SwitchNotTrusted, "switch_not_trusted", "it came from an address that is not in softswitch.trusted",
        "add the address to softswitch.trusted if it is the softswitch's; otherwise somebody has learned a name that only the \
         softswitch is told";
    ForkMerged, "fork_merged", "another fork of the same call has the device",
        "the softswitch has several contacts of one device: see what it keeps of earlier registrations; it gets what comes of the \
         first fork, or 482 when that is answered";
    PhoneRejected, "phone_rejected", "a phone said no",
        "";
    CallerGaveUp, "caller_gave_up", "the caller gave up",
        "";
    TakenElsewhere, "taken_elsewhere", "the call was taken elsewhere",
        "";
    Unregistered, "unregistered", "the phone has unregistered since the call came",
        "nothing: the call waits for it, and it is not pushed; an app that cleans up before it registers is called then";
    NotBackInTime, "not_back_in_time", "no phone came back in time",
        "a push that was taken may reach a phone late or never: battery savers, a phone without a network, an app \
         that was stopped by its user; `tune` says what a longer hold.wait_s would have brought";
    NotAnswered, "not_answered", "a phone came back, and nobody answered",
        "if it never rang, look at what the app does with the INVITE";
    InviteExpired, "invite_expired", "the INVITE's own Expires ran out",
        "the softswitch gives calls less time than a phone takes to wake";
    NothingToWake, "nothing_to_wake", "no device could be woken",
        "the steps of the devices say why";
    NoRoom, "no_room", "there was no room for the call",
        "look at the store and at limits.*; calls were answered 503 with Retry-After";
    NotTakenUp, "not_taken_up", "the call cannot be taken up after a restart",
        "its caller had no way back to it; the phones are told of a missed call";
    TakenOver, "taken_over", "another node took this one for gone and has the call",
        "this node was slow or cut off from Redis for longer than node.lease_s";
}

impl Reason {
    /// The reason with this code.
    pub fn parse(code: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.code() == code)
    }
}

/// A [`Reason`], and what it is in this case: a provider's answer, what is wrong with a parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Why {
    pub reason: Reason,
    /// Empty where the reason says all.
    pub words: Cow<'static, str>,
}

impl Why {
    pub fn new(reason: Reason, words: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, words: words.into() }
    }

    /// For people.
    pub fn text(&self) -> &str {
        if self.words.is_empty() { self.reason.meaning() } else { &self.words }
    }
}

impl From<Reason> for Why {
    fn from(reason: Reason) -> Self {
        Self::new(reason, "")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_code_is_one_reason() {
        for reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.code()), Some(*reason));
            assert!(reason.code().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{reason:?}");
        }
        assert_eq!(Reason::parse("no_such"), None);
    }

    #[test]
    fn the_list_for_people_is_this_list() {
        let page = include_str!("../../docs/reasons.md");
        let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
        let expected = Reason::ALL.iter().map(|reason| {
            let remedy = if reason.remedy().is_empty() { "–" } else { reason.remedy() };
            format!("| `{}` | {} | {remedy} |", reason.code(), reason.meaning())
        });
        assert_eq!(rows, expected.collect::<Vec<_>>(), "docs/reasons.md is to have these rows");
    }
}
