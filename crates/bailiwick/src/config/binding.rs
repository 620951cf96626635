//! The section `[binding]`: which tokens are worth something only together with a key that their holder proves.

use bailiwick_core::RiskTier;
use bailiwick_identity::Confirmation;
use schemars::JsonSchema;
use serde::Deserialize;

/// What a token must be bound to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Demand {
    /// Nothing: whoever has it may use it.
    #[default]
    None,
    /// A key, by either of the two ways.
    Any,
    /// The key of DPoP proofs (RFC 9449).
    Dpop,
    /// The client's certificate in TLS (RFC 8705).
    Mtls,
}

impl Demand {
    /// Is it met by a token that is bound to this?
    #[must_use]
    pub const fn met_by(self, confirmation: Option<&Confirmation>) -> bool {
        match (self, confirmation) {
            (Self::None, _) => true,
            (Self::Any, confirmation) => confirmation.is_some(),
            (Self::Dpop, confirmation) => matches!(confirmation, Some(Confirmation::Key(_))),
            (Self::Mtls, confirmation) => matches!(confirmation, Some(Confirmation::Certificate(_))),
        }
    }

    /// What to do to meet it, in words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::None => "nothing is demanded",
            Self::Any => "ask for a token that is bound to a key: with a DPoP proof, or over the mTLS listener",
            Self::Dpop => "ask for a token that is bound to a key: with a DPoP proof",
            Self::Mtls => "ask for a token that is bound to a certificate: over the mTLS listener",
        }
    }
}

/// Which tokens must be bound to a key.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct BindingFile {
    /// What tokens must be bound to: `none`, `any`, `dpop` or `mtls`. Default: `none` where the broker is reached under a loopback
    /// address, and `any` everywhere else.
    required: Option<Demand>,
    /// The same by the risk of the agent, in the place of `required`.
    risk: RiskFile,
    /// Must every DPoP proof have a nonce of the broker's? Costs a client one more round trip now and then. Default false: a nonce is
    /// demanded only of proofs that may be older than what the broker remembers, and of clients whose clock is off.
    nonces: bool,
}

/// What tokens must be bound to, by the risk of the agent.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct RiskFile {
    /// Of agents of low risk.
    low: Option<Demand>,
    /// Of agents of medium risk.
    medium: Option<Demand>,
    /// Of agents of high risk.
    high: Option<Demand>,
}

/// Which tokens must be bound to a key, checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    low: Demand,
    medium: Demand,
    high: Demand,
    /// Must every DPoP proof have a nonce of ours?
    pub nonces: bool,
}

impl Binding {
    /// What tokens of an agent of this risk must be bound to.
    #[must_use]
    pub const fn of(&self, risk: RiskTier) -> Demand {
        match risk {
            RiskTier::Low => self.low,
            RiskTier::Medium => self.medium,
            RiskTier::High => self.high,
        }
    }

    /// May any agent have a token that is sent by the scheme `Bearer`? One that is bound to a certificate is.
    #[must_use]
    pub fn takes_bearer(&self, mtls: bool) -> bool {
        [self.low, self.medium, self.high].into_iter().any(|demand| match demand {
            Demand::None | Demand::Mtls => true,
            Demand::Any => mtls,
            Demand::Dpop => false,
        })
    }

    /// Is a DPoP key the only thing that a token can be bound to, and must every one be?
    #[must_use]
    pub fn dpop_only(&self, mtls: bool) -> bool {
        !self.takes_bearer(mtls)
    }

    /// Does any agent's token have to be bound to a certificate?
    #[must_use]
    pub fn needs_certificates(&self) -> bool {
        [self.low, self.medium, self.high].contains(&Demand::Mtls)
    }
}

/// Checks the section. `reached` is the URL under which clients reach the broker, or the address where it listens.
pub(super) fn binding(file: &BindingFile, public_url: Option<&str>, address: std::net::SocketAddr) -> Binding {
    let required = file.required.unwrap_or(if is_local(public_url, address) { Demand::None } else { Demand::Any });
    let of = |tier: Option<Demand>| tier.unwrap_or(required);
    Binding { low: of(file.risk.low), medium: of(file.risk.medium), high: of(file.risk.high), nonces: file.nonces }
}

/// Is it reached from this machine only?
fn is_local(public_url: Option<&str>, address: std::net::SocketAddr) -> bool {
    let Some(url) = public_url else { return address.ip().to_canonical().is_loopback() };
    match url.parse::<url::Url>().ok().as_ref().and_then(url::Url::host) {
        Some(url::Host::Domain(name)) => name == "localhost" || name.ends_with(".localhost"),
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => std::net::IpAddr::V6(ip).to_canonical().is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str, public_url: Option<&str>, address: &str) -> Binding {
        binding(&toml::from_str(text).unwrap(), public_url, address.parse().unwrap())
    }

    #[test]
    fn where_only_this_machine_comes_in_nothing_is_demanded_and_elsewhere_a_key_is() {
        let of = |url: Option<&str>, address: &str| parsed("", url, address).of(RiskTier::Low);
        for (url, address) in [
            (None, "127.0.0.1:8200"),
            (None, "[::1]:8200"),
            (Some("http://localhost:8200"), "0.0.0.0:8200"),
            (Some("http://127.0.0.2"), "0.0.0.0:80"),
            (Some("http://[::1]:9"), "[::]:9"),
        ] {
            assert_eq!(of(url, address), Demand::None, "{url:?} {address}");
        }
        for (url, address) in [
            (None, "0.0.0.0:8200"),
            (None, "10.0.0.1:8200"),
            (Some("https://broker.example.org"), "127.0.0.1:8200"),
            (Some("https://localhost.example.org"), "127.0.0.1:8200"),
            (Some("http://10.0.0.1"), "127.0.0.1:8200"),
        ] {
            assert_eq!(of(url, address), Demand::Any, "{url:?} {address}");
        }
    }

    #[test]
    fn what_is_said_counts_and_a_tier_of_risk_has_its_own_word() {
        let some = parsed("required = \"none\"\nrisk.high = \"mtls\"", Some("https://broker.example.org"), "0.0.0.0:1");
        assert_eq!((some.of(RiskTier::Low), some.of(RiskTier::Medium), some.of(RiskTier::High)), (Demand::None, Demand::None, Demand::Mtls));
        assert!(some.takes_bearer(false) && some.needs_certificates());
        let all = parsed("required = \"dpop\"", None, "127.0.0.1:1");
        assert!(all.dpop_only(true) && !all.takes_bearer(true));
        assert!(parsed("required = \"any\"", None, "127.0.0.1:1").dpop_only(false));
        assert!(toml::from_str::<BindingFile>("required = \"maybe\"").is_err());
    }

    #[test]
    fn a_demand_is_met_by_what_it_names_and_by_nothing_else() {
        let key = Confirmation::Key("A".repeat(43).parse().unwrap());
        let certificate = Confirmation::Certificate(bailiwick_core::Digest::of(b"der"));
        let met = |demand: Demand| [None, Some(&key), Some(&certificate)].map(|c| demand.met_by(c));
        assert_eq!(met(Demand::None), [true, true, true]);
        assert_eq!(met(Demand::Any), [false, true, true]);
        assert_eq!(met(Demand::Dpop), [false, true, false]);
        assert_eq!(met(Demand::Mtls), [false, false, true]);
    }
}
