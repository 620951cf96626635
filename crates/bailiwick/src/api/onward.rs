//! Where a person goes after signing in: to a place of ours that he or she was on the way to, and to no other.

use bailiwick_core::HoldId;

use crate::house::House;
use crate::pages;

/// A place of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Onward {
    /// The list of held calls.
    Approvals,
    /// One held call.
    Hold(HoldId),
    /// The question whether a client may work for him or her: the request, as we sealed it.
    Request(String),
}

impl Onward {
    /// Reads what a query or a form says. What is not ours leads to the held calls.
    pub(super) fn read(house: &House, hold: Option<&str>, request: Option<&str>) -> Self {
        if let Some(hold) = hold.and_then(|text| text.parse().ok()) {
            return Self::Hold(hold);
        }
        request.filter(|sealed| house.open_request(sealed).is_some()).map_or(Self::Approvals, |sealed| Self::Request(sealed.to_owned()))
    }

    /// The path, below our own root.
    pub(super) fn path(&self) -> String {
        match self {
            Self::Approvals => pages::APPROVALS_PATH.to_owned(),
            Self::Hold(hold) => pages::approval_path(&hold.to_string()),
            // Base64url needs no escape.
            Self::Request(sealed) => format!("{}?{}={sealed}", pages::CONSENT_PATH, pages::FIELD_REQUEST),
        }
    }

    /// The hold, for a form or a link that keeps it.
    pub(super) fn hold(&self) -> Option<String> {
        match self {
            Self::Hold(hold) => Some(hold.to_string()),
            Self::Approvals | Self::Request(_) => None,
        }
    }

    /// The request, for a form or a link that keeps it.
    pub(super) fn request(&self) -> Option<String> {
        match self {
            Self::Request(sealed) => Some(sealed.clone()),
            Self::Approvals | Self::Hold(_) => None,
        }
    }
}
