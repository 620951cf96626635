//! `application/x-www-form-urlencoded` bodies, decoded strictly: no lenient escapes, no parameter twice, bounded.

use super::answer::OauthError;

/// The longest body, in bytes: two of the longest tokens, escaped.
pub const FORM_MAX: usize = 32 * 1024;
const PARAMETERS_MAX: usize = 64;

/// The parameters of one request.
pub struct Form(Vec<(String, String)>);

impl std::fmt::Debug for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

impl Form {
    /// Reads a body. The caller has checked its media type.
    ///
    /// # Errors
    /// `invalid_request` if it is too long, not well-formed, or has a parameter twice (other than `resource` and `audience`).
    pub fn parse(body: &[u8]) -> Result<Self, OauthError> {
        if body.len() > FORM_MAX {
            return Err(OauthError::invalid_request("the body is too long"));
        }
        let mut all: Vec<(String, String)> = Vec::new();
        for pair in body.split(|b| *b == b'&').filter(|pair| !pair.is_empty()) {
            let equals = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
            let (name, value) = pair.split_at_checked(equals).unwrap_or((pair, &[]));
            let (name, value) = (decode(name)?, decode(value.strip_prefix(b"=").unwrap_or(value))?);
            if all.len() >= PARAMETERS_MAX {
                return Err(OauthError::invalid_request("too many parameters"));
            }
            //= rfc6749#section-3.2
            // Request and response parameters MUST NOT be included more than once.
            //= rfc8707#section-2
            // Multiple "resource" parameters MAY be used to indicate that the requested token is intended to be used at
            // multiple resources.
            //= rfc8693#section-2.1
            // Multiple "audience" parameters may be used to indicate that the issued token is intended to be used at the multiple
            // audiences listed.
            if !matches!(name.as_str(), "resource" | "audience") && all.iter().any(|(other, _)| *other == name) {
                return Err(OauthError::invalid_request("a parameter stands twice"));
            }
            all.push((name, value));
        }
        Ok(Self(all))
    }

    /// A parameter, if it was given.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.given().find(|(n, _)| *n == name).map(|(_, value)| value)
    }

    /// Every value of a parameter.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.given().filter(move |(n, _)| *n == name).map(|(_, value)| value)
    }

    fn given(&self) -> impl Iterator<Item = (&str, &str)> {
        //= rfc6749#section-3.2
        // Parameters sent without a value MUST be treated as if they were omitted from the request.
        self.0.iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

fn decode(text: &[u8]) -> Result<String, OauthError> {
    const WRONG: OauthError = OauthError::invalid_request("the body is not well-formed");
    let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok()).ok_or(WRONG);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        rest = after;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let [high, low, after @ ..] = after else { return Err(WRONG) };
                bytes.push(digit(high)? << 4 | digit(low)?);
                rest = after;
            }
            other => bytes.push(*other),
        }
    }
    //= rfc6749#appendix-B
    // The names and values are encoded with UTF-8.
    let text = String::from_utf8(bytes).map_err(|_| WRONG)?;
    if text.chars().any(char::is_control) { Err(WRONG) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_form_is_decoded_once_and_an_empty_value_is_no_value() {
        let form = Form::parse(b"a=1+2%263&b=&c&resource=x&resource=y&").unwrap();
        assert_eq!((form.value("a"), form.value("b"), form.value("c"), form.value("d")), (Some("1 2&3"), None, None, None));
        assert_eq!(form.values("resource").collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(Form::parse(b"a=%2541").unwrap().value("a"), Some("%41"));
    }

    #[test]
    fn a_parameter_that_stands_twice_is_refused_in_every_spelling() {
        for bad in ["scope=a&scope=a", "scope=a&scope=", "scope&scope", "scope=a&%73cope=b", "unknown=1&unknown=2"] {
            assert!(Form::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_parsers_disagree_about_is_refused() {
        for bad in ["a=%", "a=%4", "a=%zz", "a=%ff", "a=%00", "a=%0d%0a", "%", "a=%+1"] {
            assert!(Form::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(Form::parse(&[b'a'; FORM_MAX + 1]).is_err());
        let many: Vec<String> = (0..65).map(|i| format!("p{i}=1")).collect();
        assert!(Form::parse(many.join("&").as_bytes()).is_err());
    }

    #[test]
    fn a_form_does_not_show_its_values() {
        let shown = format!("{:?}", Form::parse(b"client_assertion=hunter2").unwrap());
        assert!(shown.contains("client_assertion") && !shown.contains("hunter2"), "{shown}");
    }

    proptest! {
        #[test]
        fn what_another_implementation_writes_is_read_back(name in "[a-z_]{1,10}", value in "\\PC{1,60}") {
            let body = url::form_urlencoded::Serializer::new(String::new()).append_pair(&name, &value).finish();
            let form = Form::parse(body.as_bytes()).unwrap();
            prop_assert_eq!(form.value(&name), Some(value.as_str()));
        }

        #[test]
        fn no_bytes_make_it_panic(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Form::parse(&body).is_ok();
        }
    }
}
