//! Any body at the OAuth endpoints: the parsers end without panic, and what they read is bounded and for us.

use std::sync::OnceLock;

use bailiwick_identity::oauth::{FORM_MAX, Form, TokenQuery, TokenRequest};

static OURS: OnceLock<Vec<String>> = OnceLock::new();

/// See the file.
pub fn run(body: &[u8]) {
    let ours = OURS.get_or_init(|| vec!["https://gw.example/mcp".to_owned(), "https://gw.example".to_owned()]);
    if let Ok(form) = Form::parse(body) {
        assert!(body.len() <= FORM_MAX);
        for name in ["grant_type", "client_assertion", "scope", "token"] {
            assert!(form.values(name).count() <= 1);
        }
    }
    if let Ok(request) = TokenRequest::parse(body, ours) {
        assert!(request.resources.iter().all(|resource| ours.contains(resource)) && request.resources.len() <= ours.len());
        if let Some(scope) = request.scope {
            assert_eq!(scope.to_string().parse().as_ref(), Ok(&scope));
        }
    }
    if let Ok(query) = TokenQuery::parse(body) {
        assert!(!query.token.is_empty());
    }
}
