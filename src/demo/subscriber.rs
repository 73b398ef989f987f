//! A subscribed browser: its key pair, and the reading of what is pushed to it, to the letter (RFC 8291, RFC 8188).

use web_push_native::p256::SecretKey;
use web_push_native::p256::elliptic_curve::sec1::ToEncodedPoint;
use web_push_native::{Auth, decrypt};

use crate::binding::SubscriptionKeys;

/// Salt, record size, length of the key id, and the key id, which is a point (RFC 8188 §2.1, RFC 8291 §4).
const HEADER_BYTES: usize = 16 + 4 + 1 + POINT_BYTES;
const POINT_BYTES: usize = 65;
/// The delimiter and the tag of an empty text (RFC 8188 §2).
const RECORD_BYTES_MIN: usize = 1 + 16;

/// What a browser makes when a page subscribes.
#[derive(Clone)]
pub struct Subscriber {
    secret: SecretKey,
    auth: [u8; 16],
}

impl std::fmt::Debug for Subscriber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Subscriber(…)")
    }
}

impl Subscriber {
    /// With keys of its own; `None` when the system gives no random numbers.
    pub fn new() -> Option<Self> {
        let (mut secret, mut auth) = ([0; 32], [0; 16]);
        getrandom::fill(&mut secret).and_then(|()| getrandom::fill(&mut auth)).ok()?;
        Self::with(&secret, auth)
    }

    fn with(secret: &[u8], auth: [u8; 16]) -> Option<Self> {
        Some(Self { secret: SecretKey::from_slice(secret).ok()?, auth })
    }

    /// For whoever is to write to it.
    pub fn keys(&self) -> SubscriptionKeys {
        let mut p256dh = [0; POINT_BYTES];
        let point = self.secret.public_key().to_encoded_point(false);
        p256dh.iter_mut().zip(point.as_bytes()).for_each(|(place, byte)| *place = *byte);
        SubscriptionKeys { p256dh, auth: self.auth }
    }

    /// The text of a body, or what is wrong with the body.
    pub fn read(&self, body: &[u8]) -> Result<Vec<u8>, &'static str> {
        let (header, record) = body.split_at_checked(HEADER_BYTES).ok_or("the body has no header of aes128gcm")?;
        let (_salt, rest) = header.split_first_chunk::<16>().ok_or("no salt")?;
        let (size, rest) = rest.split_first_chunk::<4>().ok_or("no record size")?;
        if rest.first_chunk() != Some(&[65, 4]) {
            return Err("the key id is not an uncompressed point");
        }
        if record.len() < RECORD_BYTES_MIN {
            return Err("there is no record");
        }
        // RFC 8291 §4: one record, which is shorter than it might be.
        if u32::from_be_bytes(*size) as usize <= record.len() {
            return Err("the record size is not larger than the record");
        }
        decrypt(body.to_vec(), &self.secret, &Auth::from(self.auth)).map_err(|_| "this browser cannot decrypt the body")
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(text.replace([' ', '\n'], "")).unwrap()
    }

    /// RFC 8291 Appendix A.
    fn example() -> (Subscriber, Vec<u8>) {
        let auth = bytes("BTBZMqHH6r4Tts7J_aSIgg").try_into().unwrap();
        let browser = Subscriber::with(&bytes("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94"), auth).unwrap();
        let body = "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27ml
                    mlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPT
                    pK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN";
        (browser, bytes(body))
    }

    #[test]
    fn the_example_of_rfc_8291_is_read() {
        let (browser, body) = example();
        let public = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
        assert_eq!(browser.keys().p256dh.to_vec(), bytes(public));
        assert_eq!(browser.read(&body), Ok(b"When I grow up, I want to be a watermelon".to_vec()));
    }

    #[test]
    fn what_is_not_to_the_letter_is_refused() {
        let (browser, body) = example();
        let changed = |at: usize, value: u8| {
            let mut changed = body.clone();
            changed[at] = value;
            browser.read(&changed)
        };
        for wrong in [changed(0, 0), changed(18, 0), changed(20, 64), changed(21, 2), changed(143, 0)] {
            assert!(wrong.is_err());
        }
        for length in 0..body.len() {
            assert!(browser.read(&body[..length]).is_err(), "{length}");
        }
    }
}
