//! Route preprocessing (RFC 3261 §16.4): which Route values are ours, and what the rest of the request then says.

use std::ops::Range;

use smallvec::SmallVec;

use super::policy::Policy;
use super::secret::{Keys, TokenRead};
use crate::sip::{HeaderName, Message, NameAddr, Uri};

/// A request as it stands after preprocessing. Nothing is copied: the edits are made when it is forwarded.
#[derive(Debug, Clone)]
pub(super) struct Routed<'m> {
    /// The Request-URI, or what a strict router before us put in its place.
    pub uri: &'m [u8],
    /// Whether `uri` is not the one in the Request-Line.
    pub uri_restored: bool,
    /// Where the Route values stand that are ours, or that became the Request-URI.
    pub removed: SmallVec<[Range<usize>; 2]>,
    /// URI of the first Route that remains.
    pub next_route: Option<&'m [u8]>,
    /// What the user part of our own Route value says.
    pub token: TokenRead,
}

impl<'m> Routed<'m> {
    /// A request as it came.
    fn untouched(request: &'m Message) -> Self {
        Self {
            uri: request.uri(),
            uri_restored: false,
            removed: SmallVec::new(),
            next_route: None,
            token: TokenRead::NoToken,
        }
    }
}

/// What is left of the Route of a request whose target is known. Without a Route there is nothing to be done, and no token
/// to be read.
pub(super) fn remains<'m>(request: &'m Message, policy: &Policy, keys: &Keys) -> Routed<'m> {
    if request.fields(HeaderName::Route).next().is_none() {
        return Routed::untouched(request);
    }
    preprocess(request, policy, keys)
}

pub(super) fn preprocess<'m>(request: &'m Message, policy: &Policy, keys: &Keys) -> Routed<'m> {
    let mut routed = Routed::untouched(request);
    let mut routes: SmallVec<[&[u8]; 4]> = request.values(HeaderName::Route).collect();
    if let Some(token) = own_token(request, request.uri(), policy, keys) {
        routed.token = token;
        restore_uri(request, &mut routes, &mut routed);
    }
    for route in routes {
        let uri = NameAddr::parse(route).map_or(route, |parsed| parsed.uri);
        let token = own_token(request, uri, policy, keys);
        let is_ours = token.is_some() || Uri::parse(uri).is_ok_and(|uri| policy.is_own(&uri));
        if !is_ours || token.is_some_and(|token| is_another_leg(routed.token, token)) {
            routed.next_route = Some(uri);
            break;
        }
        routed.removed.push(request.span_of(route));
        if let (TokenRead::NoToken, Some(token)) = (routed.token, token) {
            routed.token = token;
        }
    }
    routed
}

/// What a URI of ours has in its user part, if that has the form of a token. A token that is signed by us makes a URI ours
/// whatever its host is by now: some softswitches put the address there that they see us at.
fn own_token(request: &Message, uri: &[u8], policy: &Policy, keys: &Keys) -> Option<TokenRead> {
    let uri = Uri::parse(uri).ok()?;
    match keys.read(uri.user?, request.call_id()) {
        TokenRead::NoToken => None,
        TokenRead::Forged => policy.is_own(&uri).then_some(TokenRead::Forged),
        token @ (TokenRead::Flow(_) | TokenRead::Dialog(_) | TokenRead::Hop(_)) => Some(token),
    }
}

/// A call between two phones that the softswitch passes on without a Record-Route of its own comes by us twice. What the
/// second time left in the route set is for the request's next visit.
fn is_another_leg(first: TokenRead, next: TokenRead) -> bool {
    matches!((first, next), (TokenRead::Dialog(first), TokenRead::Dialog(next)) if first.device != next.device)
}

/// A strict router before us put our Record-Route value into the Request-URI and the real one at the end of Route.
fn restore_uri<'m>(request: &'m Message, routes: &mut SmallVec<[&'m [u8]; 4]>, routed: &mut Routed<'m>) {
    if let Some(last) = routes.pop() {
        routed.removed.push(request.span_of(last));
        routed.uri = NameAddr::parse(last).map_or(last, |parsed| parsed.uri);
        routed.uri_restored = true;
    }
}
