//! Bundles of other trust domains, handed out to those who get SVIDs of ours: of those that the configuration names, and as we know them ourselves.

use std::sync::Arc;

use bailiwick_core::TrustDomain;
use bailiwick_identity::foreign::KeySet;
use bailiwick_identity::spiffe::id_of_domain;
use bailiwick_identity::spiffe::workload_api::Bundles;

use super::Issuer;
use crate::house::House;

/// What is known now of the trust domains that are federated with. One whose keys cannot be had any more has none.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Federated {
    /// The certificates of those who sign X.509-SVIDs, one after the other.
    pub(super) x509: Bundles,
    /// The JWK sets of those who sign JWT-SVIDs.
    pub(super) jwt: Bundles,
}

impl Issuer {
    /// The bundles of our own trust domain and of those that are federated with.
    pub(super) fn with_federated(&self, own: Vec<u8>, of: impl FnOnce(&Federated) -> &Bundles) -> Bundles {
        let federated = self.federated.load();
        let mut all = of(&federated).clone();
        // Ours last: nobody else's stands under our name.
        all.insert(id_of_domain(self.authority.load().domain()), own);
        all
    }
}

impl House {
    /// Looks whether a bundle of another trust domain changed, and rings if one did.
    pub(super) fn look_at_federated(&self, issuer: &Issuer) {
        let now = self.clock.now();
        let mut next = Federated::default();
        for name in &issuer.settings.federates_with {
            let Some((domain, keys)) = self.proofs.trust_domain(name) else { continue };
            let id = id_of_domain(&domain);
            next.x509.extend(Some(keys.x509(now).concat()).filter(|all| !all.is_empty()).map(|all| (id.clone(), all)));
            next.jwt.extend(keys.current(now).map(|set| (id, set.to_bundle().to_string().into_bytes())));
        }
        if **issuer.federated.load() != next {
            issuer.federated.store(Arc::new(next));
            issuer.changed.send_replace(issuer.authority.load().sequence());
        }
    }

    /// The keys by which JWT-SVIDs of a trust domain are verified for agents: ours, or those of one that is federated with.
    pub(super) fn keys_for_agents(&self, issuer: &Issuer, domain: &TrustDomain) -> Option<Arc<KeySet>> {
        let now = self.clock.now();
        if *domain == self.config.trust_domain {
            return self.proofs.own_keys(now);
        }
        let federated = issuer.settings.federates_with.iter().filter_map(|name| self.proofs.trust_domain(name));
        federated.filter(|(known, _)| known == domain).find_map(|(_, keys)| keys.current(now))
    }
}
