//! Whole lists of an upstream, page by page, within bounds.

use std::borrow::Cow;

use bailiwick_wire::json::{Limits, write_string};
use bailiwick_wire::mcp::Method;
use bailiwick_wire::{Raw, RawBuf};

use super::{Reply, SessionKey, Upstream, UpstreamError, UpstreamRequest, UseEra};

/// Pages of one list.
pub const LIST_PAGES_MAX: usize = 100;
/// Items of one list.
pub const LIST_ITEMS_MAX: usize = 10_000;
/// All items of one list, in bytes.
const LIST_BYTES_MAX: usize = 64 << 20;

impl Upstream {
    /// Every item of `tools/list`, `prompts/list`, `resources/list` or `resources/templates/list`, in the upstream's order,
    /// asked for in the newest era that it speaks.
    ///
    /// # Errors
    /// As [`Upstream::request`]. A list that exceeds a bound, or whose cursor does not advance, is broken: none of it counts.
    pub async fn list_all(&self, method: Method, key: &SessionKey) -> Result<Vec<RawBuf>, UpstreamError> {
        let member = member(method).ok_or_else(|| UpstreamError::unavailable("the method lists nothing"))?;
        let support = self.shared.live().await?.support;
        let era = match support.legacy {
            Some(version) if !support.modern => UseEra::Legacy { version, capabilities: Raw::EMPTY_OBJECT },
            Some(_) | None => UseEra::Modern { capabilities: Raw::EMPTY_OBJECT },
        };
        let mut gathered = Gathered::default();
        let mut cursor: Option<String> = None;
        for _ in 0..LIST_PAGES_MAX {
            let params = page_params(cursor.as_deref())?;
            let request = UpstreamRequest::new(era, key, method, Raw::parse(&params, &Limits::REPLY).map_err(|_| bad())?);
            let result = match self.request(request, None).await? {
                Reply::Result(result) => result,
                Reply::Error { code, .. } => {
                    let words = format!("it answers `{}` with error {code}", method.as_str());
                    return Err(UpstreamError::Broken { words: words.into(), may_have_run: false });
                }
            };
            gathered.page(result.raw(), member)?;
            let next = result.raw().member("nextCursor").and_then(Raw::string).map(Cow::into_owned);
            match next {
                None => return Ok(gathered.items),
                Some(next) if cursor.as_ref() == Some(&next) => return Err(bad()),
                Some(next) => cursor = Some(next),
            }
        }
        Err(UpstreamError::Broken { words: "its list has too many pages".into(), may_have_run: false })
    }
}

#[derive(Default)]
struct Gathered {
    items: Vec<RawBuf>,
    bytes: usize,
}

impl Gathered {
    fn page(&mut self, result: Raw<'_>, member: &str) -> Result<(), UpstreamError> {
        let page = result.member(member).ok_or_else(bad)?;
        for item in page.elements() {
            if !item.is_object() {
                return Err(bad());
            }
            self.bytes = self.bytes.saturating_add(item.text().len());
            if self.items.len() >= LIST_ITEMS_MAX || self.bytes > LIST_BYTES_MAX {
                return Err(UpstreamError::Broken { words: "its list is too long".into(), may_have_run: false });
            }
            self.items.push(item.to_owned());
        }
        Ok(())
    }
}

fn bad() -> UpstreamError {
    UpstreamError::Broken { words: "its list is not a list of objects in pages".into(), may_have_run: false }
}

fn page_params(cursor: Option<&str>) -> Result<Vec<u8>, UpstreamError> {
    let mut params = b"{".to_vec();
    if let Some(cursor) = cursor {
        if cursor.len() > 64 << 10 {
            return Err(bad());
        }
        params.extend_from_slice(br#""cursor":"#);
        write_string(&mut params, cursor);
    }
    params.push(b'}');
    Ok(params)
}

fn member(method: Method) -> Option<&'static str> {
    match method {
        Method::ToolsList => Some("tools"),
        Method::PromptsList => Some("prompts"),
        Method::ResourcesList => Some("resources"),
        Method::ResourceTemplatesList => Some("resourceTemplates"),
        _ => None,
    }
}
