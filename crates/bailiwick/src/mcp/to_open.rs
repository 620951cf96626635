//! A system of 2025-11-25 says that a person must open a page before it does what it was asked (-32042). A client of 2026-07-28 is told
//! so as `input_required`, and its next request makes the call anew.

use bailiwick_core::ErrorCode;
use bailiwick_wire::mcp::code;
use bailiwick_wire::mcp::reply::ElicitationAnswer;
use bailiwick_wire::{Raw, RawBuf};

use crate::config::RelayKind;
use crate::mcp::call::{Asked, quoted};
use crate::mcp::exchange::{Exchange, Said};
use crate::mcp::relay;
use crate::pipeline::Refused;

/// The most pages that one answer may name, and the longest address of one.
const PAGES_MAX: usize = 4;
const URL_MAX: usize = 2048;

impl Exchange {
    /// What is told to a modern client in place of the error, which that revision does not have. `None`: it is another error, or another client.
    pub(super) fn to_open(&self, asked: &Asked, number: i64, data: Option<&RawBuf>) -> Option<Said> {
        if number != i64::from(code::URL_ELICITATION_REQUIRED) || !self.is_modern() {
            return None;
        }
        let system = &asked.entry.as_ref()?.system;
        let refused = |detail: &str| {
            let refused = Refused { code: ErrorCode::UpstreamBroken, detail: detail.to_owned() };
            Some(self.refused(asked.method, &asked.name, &refused))
        };
        if !system.entry.relay.contains(&RelayKind::Elicitation) {
            return refused("the system wants a person to open a page first, and its questions are not relayed (`relay`)");
        }
        if !self.capabilities().elicitation_url {
            return refused("the system wants a person to open a page first, and this client shows none");
        }
        match data.and_then(pages) {
            Some(requests) => Some(self.input_required(asked, &requests)),
            None => refused("the system wants a person to open a page first, and does not say which"),
        }
    }
}

/// Did the client's person decline a page?
pub(super) fn declined(responses: Raw<'_>) -> bool {
    let no = |answer: Raw<'_>| matches!(ElicitationAnswer::read(answer), Some(ElicitationAnswer::Decline | ElicitationAnswer::Cancel));
    responses.members().any(|(_, answer)| no(answer))
}

pub(super) fn not_opened() -> Refused {
    Refused {
        code: ErrorCode::CallCancelled,
        detail: "the page that the system asks for was declined at the client; the call was not made again".to_owned(),
    }
}

/// The questions in the shape of 2026-07-28, made of what the error's `data` says.
fn pages(data: &RawBuf) -> Option<RawBuf> {
    let mut requests: Vec<String> = Vec::new();
    for one in data.raw().member("elicitations")?.elements() {
        let url = one.member("url").and_then(Raw::string).filter(|url| url.len() <= URL_MAX)?;
        let web =
            url::Url::parse(&url).is_ok_and(|url| matches!(url.scheme(), "https" | "http") && url.username().is_empty() && url.password().is_none());
        if !web || requests.len() >= PAGES_MAX {
            return None;
        }
        let words = one.member("message").and_then(Raw::string).unwrap_or_default();
        let params = format!("{{\"mode\":\"url\",\"url\":{},\"message\":{}}}", quoted(&url), quoted(&bailiwick_wire::render::line(&words)));
        requests.push(format!("\"page-{}\":{{\"method\":\"elicitation/create\",\"params\":{params}}}", requests.len().saturating_add(1)));
    }
    (!requests.is_empty()).then(|| relay::own(&format!("{{\"inputRequests\":{{{}}}}}", requests.join(","))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_told_in_the_new_shape_and_only_addresses_of_the_web() {
        let said = |url: &str| {
            relay::own(&format!(
                "{{\"elicitations\":[{{\"mode\":\"url\",\"elicitationId\":\"e\",\"url\":{},\"message\":\"Sign in\"}}]}}",
                quoted(url)
            ))
        };
        let requests = pages(&said("https://a.example/x?y=1")).unwrap();
        let params = requests.raw().member("inputRequests").unwrap().member("page-1").unwrap().member("params").unwrap();
        assert_eq!(params.text(), r#"{"mode":"url","url":"https://a.example/x?y=1","message":"Sign in"}"#);
        for bad in ["javascript:alert(1)", "file:///etc/passwd", "https://u:p@a.example/", "a.example", ""] {
            assert!(pages(&said(bad)).is_none(), "{bad}");
        }
        assert!(pages(&relay::own("{\"elicitations\":[]}")).is_none());
        assert!(pages(&relay::own("{}")).is_none());
    }
}
