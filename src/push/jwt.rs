//! Signed JSON Web Tokens (RFC 7515, RFC 7519): RS256 for Google, ES256 for Apple and for Web Push, PS256 for Huawei
//! (RFC 7518 §3.3 to §3.5).

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaKeyPair,
};
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;

/// A private key that signs tokens. It never prints itself.
pub(super) enum SigningKey {
    Rs256(Box<RsaKeyPair>),
    Ps256(Box<RsaKeyPair>),
    Es256(Box<EcdsaKeyPair>),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rs256(_) => "SigningKey(RS256)",
            Self::Ps256(_) => "SigningKey(PS256)",
            Self::Es256(_) => "SigningKey(ES256)",
        })
    }
}

/// Why a text is not the key that is needed; in words for the operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyError {
    #[error("it is not a private key in PEM form (-----BEGIN PRIVATE KEY-----)")]
    NotPem,
    #[error("its key is not in PKCS#8 form; convert it with `openssl pkcs8 -topk8 -nocrypt`")]
    NotPkcs8,
    #[error("its key is not {expected} ({problem})")]
    Unfit { expected: &'static str, problem: String },
}

/// The key could not sign. It does not happen with a key that was read; callers answer with a refusal all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the token could not be signed")]
pub(super) struct SigningError;

impl SigningKey {
    /// An RSA key in PKCS#8, as Google's key files have it.
    pub(super) fn rs256(pem: &[u8]) -> Result<Self, KeyError> {
        rsa(pem).map(Self::Rs256)
    }

    /// The same, as Huawei's key files have it.
    pub(super) fn ps256(pem: &[u8]) -> Result<Self, KeyError> {
        rsa(pem).map(Self::Ps256)
    }

    /// A P-256 key in PKCS#8, as Apple's `.p8` files have it.
    pub(super) fn es256(pem: &[u8]) -> Result<Self, KeyError> {
        let PrivateKeyDer::Pkcs8(der) = private_key(pem)? else {
            return Err(KeyError::NotPkcs8);
        };
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.secret_pkcs8_der(), &SystemRandom::new())
            .map(|key| Self::Es256(Box::new(key)))
            .map_err(|problem| KeyError::Unfit { expected: "a P-256 key", problem: problem.to_string() })
    }

    /// The public key of a P-256 key as a point without compression, 65 bytes (RFC 8292 §3.2).
    pub(super) fn public_point(&self) -> Option<&[u8]> {
        match self {
            Self::Es256(key) => Some(key.public_key().as_ref()),
            Self::Rs256(_) | Self::Ps256(_) => None,
        }
    }

    /// The token in compact form (RFC 7515 §7.1); its parts are in base64url without padding (RFC 7515 §2).
    pub(super) fn sign(&self, header: &impl Serialize, claims: &impl Serialize) -> Result<String, SigningError> {
        let mut token = part(header)?;
        token.push('.');
        token.push_str(&part(claims)?);
        let signature = self.signature(token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }

    fn signature(&self, input: &[u8]) -> Result<Vec<u8>, SigningError> {
        let random = SystemRandom::new();
        match self {
            Self::Rs256(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, input, &mut signature).map_err(|_| SigningError)?;
                Ok(signature)
            }
            Self::Ps256(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PSS_SHA256, &random, input, &mut signature).map_err(|_| SigningError)?;
                Ok(signature)
            }
            Self::Es256(key) => {
                key.sign(&random, input).map(|signature| signature.as_ref().to_vec()).map_err(|_| SigningError)
            }
        }
    }
}

fn rsa(pem: &[u8]) -> Result<Box<RsaKeyPair>, KeyError> {
    let expected = "an RSA key of at least 2048 bits";
    let PrivateKeyDer::Pkcs8(der) = private_key(pem)? else {
        return Err(KeyError::NotPkcs8);
    };
    RsaKeyPair::from_pkcs8(der.secret_pkcs8_der())
        .map(Box::new)
        .map_err(|problem| KeyError::Unfit { expected, problem: problem.to_string() })
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, KeyError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyError::NotPem)
}

fn part(value: &impl Serialize) -> Result<String, SigningError> {
    serde_json::to_vec(value).map(|json| URL_SAFE_NO_PAD.encode(json)).map_err(|_| SigningError)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By `openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt`, as a `.p8` file has it.
    const THROWAWAY_P8: &[u8] = b"-----BEGIN PRIVATE KEY-----\n\
        MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg6VjMymgzU1DkpVzC\n\
        +Ei+6dfVkuvgtf+vTTgM+Z7xTvWhRANCAAShXk/7cb7HQNH64fn5sIwkUfYIA+pQ\n\
        Jl586r/ztfImoiyvGJ4eON5RGtqRIy42UpO70LFcHWrXMh4xnYujpmlW\n\
        -----END PRIVATE KEY-----\n";

    #[test]
    fn key_made_by_openssl_signs() {
        let key = SigningKey::es256(THROWAWAY_P8).unwrap();
        let token = key.sign(&serde_json::json!({"alg": "ES256"}), &serde_json::json!({"iat": 1})).unwrap();
        let [header, claims, signature] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
        assert_eq!((header, claims), ("eyJhbGciOiJFUzI1NiJ9", "eyJpYXQiOjF9"));
        assert_eq!(URL_SAFE_NO_PAD.decode(signature).unwrap().len(), 64);
    }

    #[test]
    fn wrong_keys_say_what_would_be_right() {
        let rsa = include_bytes!("../demo/throwaway_rsa.pem");
        assert!(SigningKey::rs256(rsa).is_ok());
        assert!(SigningKey::es256(rsa).unwrap_err().to_string().starts_with("its key is not a P-256 key"));
        assert_eq!(SigningKey::es256(b"garbage").unwrap_err(), KeyError::NotPem);
        let sec1 = b"-----BEGIN EC PRIVATE KEY-----\nMAA=\n-----END EC PRIVATE KEY-----\n";
        assert_eq!(SigningKey::es256(sec1).unwrap_err(), KeyError::NotPkcs8);
    }
}
