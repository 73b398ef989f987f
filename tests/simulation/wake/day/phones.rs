//! What phones do: wake by pushes, register, move, and sleep again.

use std::time::{Duration, Instant};

use sip_push_proxy::sip::Transport;

use super::{Act, Day, MORNING, RINGS_FOR};
use crate::agent::{Agent, Answer, Got};

/// An app whose REGISTER brought nothing tries again after this.
const TRIES_AGAIN_TCP: Duration = Duration::from_secs(4);
const TRIES_AGAIN_UDP: Duration = Duration::from_secs(33);

#[derive(Debug)]
pub(super) struct Phone {
    pub(super) agent: usize,
    pub(super) is_tcp: bool,
    pub(super) closes: bool,
    pub(super) never_sleeps: bool,
    pub(super) has_dead_token: bool,
    /// When it will be up.
    pub(super) waking: Option<Instant>,
    pub(super) awake_until: Instant,
}

impl Day {
    pub(super) fn add_phone(&mut self, phone: usize) {
        let fate = self.fate.phone(phone);
        let name = format!("p{phone}");
        let address = format!("198.51.{}.{}:{}", 100 + phone / 250, 1 + phone % 250, 20_000 + phone);
        let transport = if fate.is_tcp { Transport::Tcp } else { Transport::Udp };
        let mut agent = Agent::new(&name, &name, &address, transport, self.world.seed ^ (phone as u64 + 1) << 20);
        agent.device.push = push_params(&prid(phone, 1, fate.is_iphone), fate.is_iphone);
        agent.answer = Answer::Answers(fate.picks_up_after);
        if fate.has_dead_token {
            self.world.pushes.dead.insert(prid(phone, 1, fate.is_iphone));
        }
        agent.answers_by_any_connection = true;
        let agent = self.world.add(agent);
        self.phones.push(Phone {
            agent,
            is_tcp: fate.is_tcp,
            closes: fate.closes,
            never_sleeps: fate.never_sleeps,
            has_dead_token: fate.has_dead_token,
            waking: None,
            awake_until: self.start - MORNING / 4,
        });
    }

    pub(super) fn rouses(&mut self, call: usize) {
        let (phone, latency) = (self.calls[call].phone, self.calls[call].wake.latency);
        if self.agent(phone).is_awake {
            let after = self.fate.reaction(call);
            self.plan_after(after, Act::Registers(phone));
            self.stays_awake(phone, after);
        } else if self.phones[phone].waking.is_none() {
            self.note(call, &format!("the push is there, and it wakes in {latency:?}"));
            self.phones[phone].waking = Some(self.now() + latency);
            self.plan_after(latency, Act::Wakes(call));
        }
    }

    pub(super) fn wakes(&mut self, call: usize) {
        let (phone, wake) = (self.calls[call].phone, self.calls[call].wake);
        let now = self.now();
        self.phones[phone].waking = None;
        let is_tcp = self.phones[phone].is_tcp;
        let agent = self.agent(phone);
        agent.is_awake = true;
        agent.connection = None;
        if is_tcp {
            // A connection is made as soon as there is a network.
            self.plan(now + wake.network_after, Act::Registers(phone));
        } else {
            agent.network_from = Some(now + wake.network_after);
            if wake.has_other_port {
                self.world.agent_moves(self.phones[phone].agent);
            }
            self.registers(phone);
        }
        if let Some((moves, says)) = wake.moves {
            self.plan(now + wake.network_after + moves, Act::Moves(phone));
            self.plan(now + wake.network_after + moves + says, Act::Registers(phone));
        }
        self.stays_awake(phone, wake.stays_for);
    }

    fn stays_awake(&mut self, phone: usize, time: Duration) {
        let until = self.phones[phone].awake_until.max(self.now() + time);
        self.phones[phone].awake_until = until;
        self.plan(until, Act::Sleeps(phone));
    }

    pub(super) fn registers(&mut self, phone: usize) {
        let connection = self.world.new_connection();
        let is_tcp = self.phones[phone].is_tcp;
        let agent = self.agent(phone);
        if !agent.is_awake {
            return;
        }
        if is_tcp && agent.connection.is_none() {
            agent.connection = Some(connection);
        }
        let contact = agent.contact();
        let draft = agent.register(Some(contact));
        let number = self.world.request(self.phones[phone].agent, draft);
        let pause = if is_tcp { TRIES_AGAIN_TCP } else { TRIES_AGAIN_UDP };
        self.plan_after(pause, Act::LooksAfter(phone, number));
        self.stays_awake(phone, Duration::from_secs(5));
    }

    pub(super) fn looks_after(&mut self, phone: usize, number: usize) {
        let sent = &self.agent(phone).sent;
        let is_last = sent.len() == number + 1;
        if is_last && !sent[number].finals().contains(&200) {
            self.registers(phone);
        }
    }

    pub(super) fn sleeps(&mut self, phone: usize) {
        let now = self.now();
        let Phone { awake_until, never_sleeps, closes, .. } = self.phones[phone];
        // It rings, or nobody has acknowledged its 200.
        let is_busy = |got: &Got| {
            let is_invite = got.message.method_text() == b"INVITE";
            let is_pending = got.status.is_some_and(|status| status < 300) && !got.acknowledged;
            is_invite && is_pending && now.saturating_duration_since(got.at) < RINGS_FOR
        };
        let agent = self.agent(phone);
        if never_sleeps || !agent.is_awake || now < awake_until {
            return;
        }
        if agent.got.iter().rev().take(4).any(is_busy) {
            return self.stays_awake(phone, Duration::from_secs(5));
        }
        agent.is_awake = false;
        if closes {
            agent.connection = None;
        }
    }
}

/// A token of a phone; it has one at a time.
pub(super) fn prid(phone: usize, number: usize, is_iphone: bool) -> String {
    let token = format!("{:06x}{number:02x}", phone + 1);
    if is_iphone { format!("{token}a0:voip&{token}b0:remote") } else { token }
}

/// Parameters of a Contact by which a phone is pushed.
pub(super) fn push_params(prid: &str, is_iphone: bool) -> String {
    match is_iphone {
        true => format!(";pn-provider=apns;pn-param=DEF123GHIJ.org.example.voip&remote;pn-prid={prid}"),
        false => format!(";pn-provider=fcm;pn-param=project;pn-prid={prid}"),
    }
}
