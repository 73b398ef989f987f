//! Bodies that only the subscribed browser can read: one record of aes128gcm (RFC 8291, RFC 8188).

use web_push_native::p256::PublicKey;
use web_push_native::{Auth, encrypt};

use crate::binding::SubscriptionKeys;

/// The longest plaintext of a push that every service takes (RFC 8291 §4, RFC 8030 §7.2).
pub(super) const PLAINTEXT_BYTES_MAX: usize = 3993;
/// For the `content-encoding` header.
pub(super) const CODING: &str = "aes128gcm";
/// Where the header of the coding has the size of a record (RFC 8188 §2.1).
const RECORD_SIZE_AT: std::ops::Range<usize> = 16..20;
const RECORD_SIZE: u32 = 4096;

/// The keys are no point on the curve P-256, or the text is longer than [`PLAINTEXT_BYTES_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it cannot be encrypted for this subscription")]
pub(super) struct EncryptionError;

/// With a fresh key pair and salt each time.
pub(super) fn encrypted(plaintext: Vec<u8>, keys: &SubscriptionKeys) -> Result<Vec<u8>, EncryptionError> {
    if plaintext.len() > PLAINTEXT_BYTES_MAX {
        return Err(EncryptionError);
    }
    let point = point(keys).ok_or(EncryptionError)?;
    let mut body = encrypt(plaintext, &point, &Auth::from(keys.auth)).map_err(|_| EncryptionError)?;
    // The library writes the size that the record has; it is to be larger, as there is no other record (RFC 8291 §4).
    let size = body.get_mut(RECORD_SIZE_AT).ok_or(EncryptionError)?;
    size.copy_from_slice(&RECORD_SIZE.to_be_bytes());
    Ok(body)
}

/// Whether a browser's key is one (RFC 8291 §3.1).
pub(super) fn is_usable(keys: &SubscriptionKeys) -> bool {
    point(keys).is_some()
}

fn point(keys: &SubscriptionKeys) -> Option<PublicKey> {
    PublicKey::from_sec1_bytes(&keys.p256dh).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::subscriber::Subscriber;

    #[test]
    fn the_browser_reads_what_was_written() {
        let browser = Subscriber::new().unwrap();
        for length in [0, 1, 100, PLAINTEXT_BYTES_MAX] {
            let text = vec![b'x'; length];
            let body = encrypted(text.clone(), &browser.keys()).unwrap();
            assert_eq!(body.len(), 86 + length + 17);
            assert_eq!(browser.read(&body), Ok(text));
            assert_eq!(Subscriber::new().unwrap().read(&body), Err("this browser cannot decrypt the body"));
        }
        let again = || encrypted(b"again".to_vec(), &browser.keys()).unwrap();
        assert_ne!(again(), again());
    }

    #[test]
    fn keys_that_are_none_and_long_texts_are_refused() {
        let browser = Subscriber::new().unwrap();
        assert_eq!(encrypted(vec![0; PLAINTEXT_BYTES_MAX + 1], &browser.keys()), Err(EncryptionError));
        for p256dh in [[0; 65], [4; 65], [255; 65]] {
            let keys = SubscriptionKeys { p256dh, ..browser.keys() };
            assert!(!is_usable(&keys));
            assert_eq!(encrypted(Vec::new(), &keys), Err(EncryptionError));
        }
    }
}
