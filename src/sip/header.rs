//! Header names (RFC 3261 §7.3.1, §20): those that we look at, in their long and compact forms.

macro_rules! header_names {
    ($($name:ident $long:literal $($compact:literal)?;)*) => {
        /// A header field's name, if it is one that we ever look at.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum HeaderName {
            $($name,)*
            /// Forwarded untouched.
            Other,
        }

        impl HeaderName {
            /// All names with their long and compact forms.
            pub const ALL: &'static [(Self, &'static str, Option<&'static str>)] = &[
                $((Self::$name, $long, header_names!(@compact $($compact)?)),)*
            ];

            /// As we write it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $long,)*
                    Self::Other => "",
                }
            }

            /// Without regard to case, as names are compared (RFC 3261 §7.3.1).
            pub fn of(text: &[u8]) -> Self {
                match text.len() {
                    1 => {
                        $($(if text.eq_ignore_ascii_case($compact.as_bytes()) { return Self::$name; })?)*
                    }
                    $(length if length == $long.len() && text.eq_ignore_ascii_case($long.as_bytes()) => {
                        return Self::$name;
                    })*
                    _ => {}
                }
                Self::Other
            }
        }
    };
    (@compact) => { None };
    (@compact $compact:literal) => { Some($compact) };
}

header_names! {
    Via "Via" "v";
    From "From" "f";
    To "To" "t";
    CallId "Call-ID" "i";
    CSeq "CSeq";
    Contact "Contact" "m";
    MaxForwards "Max-Forwards";
    Route "Route";
    RecordRoute "Record-Route";
    ContentLength "Content-Length" "l";
    ContentType "Content-Type" "c";
    Expires "Expires";
    MinExpires "Min-Expires";
    Path "Path";
    Supported "Supported" "k";
    Require "Require";
    ProxyRequire "Proxy-Require";
    FeatureCaps "Feature-Caps";
    Authorization "Authorization";
    ProxyAuthorization "Proxy-Authorization";
    WwwAuthenticate "WWW-Authenticate";
    ProxyAuthenticate "Proxy-Authenticate";
    RetryAfter "Retry-After";
    Reason "Reason";
    Privacy "Privacy";
    PAssertedIdentity "P-Asserted-Identity";
    UserAgent "User-Agent";
    Timestamp "Timestamp";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_both_forms_and_any_case() {
        for (name, long, compact) in HeaderName::ALL {
            assert_eq!(HeaderName::of(long.to_ascii_uppercase().as_bytes()), *name);
            if let Some(compact) = compact {
                assert_eq!(HeaderName::of(compact.to_ascii_uppercase().as_bytes()), *name);
            }
        }
        assert_eq!(HeaderName::of(b"x"), HeaderName::Other);
        assert_eq!(HeaderName::of(b"Viaa"), HeaderName::Other);
    }
}
