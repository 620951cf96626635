//! The Rust library `spiffe` against a Workload API: fetches what there is, checks it itself, and tells it as one line of JSON.
//!
//! `spiffe-client-rust ENDPOINT AUDIENCE`: the first SVIDs. With `--until-end` after that, it then says one line for each further X.509-SVID
//! that it is sent, and a last one with the error by which its stream ends.

use std::error::Error;
use std::time::Duration;

use serde_json::json;
use spiffe::{JwtSource, JwtSvid, WorkloadApiClient, X509Source};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (endpoint, audience) = (arguments.next().ok_or("an endpoint")?, arguments.next().ok_or("an audience")?);
    let until_end = arguments.next().as_deref() == Some("--until-end");

    let x509 = tokio::time::timeout(Duration::from_secs(10), X509Source::builder().endpoint(&endpoint).build()).await??;
    let svid = x509.svid()?;
    let roots = x509.bundle_set()?;
    let domain = svid.spiffe_id().trust_domain();
    let authorities = roots.get(domain).ok_or("no bundle of the trust domain")?;

    let jwt = tokio::time::timeout(Duration::from_secs(10), JwtSource::builder().endpoint(&endpoint).build()).await??;
    let token = jwt.fetch_jwt_svid([audience.as_str()]).await?;
    let keys = jwt.bundle_set()?;
    let checked = JwtSvid::parse_and_validate(token.token(), &*keys, &[audience.as_str()])?;
    let client = WorkloadApiClient::connect_to(&endpoint).await?;
    let by_server = client.validate_jwt_token(&audience, token.token()).await?;
    let for_another = client.validate_jwt_token("somebody-else", token.token()).await;

    println!(
        "{}",
        json!({
            "x509_id": svid.spiffe_id().to_string(),
            "certificate": hex(svid.leaf().as_bytes()),
            "key": hex(svid.private_key().as_bytes()),
            "roots": authorities.authorities().iter().map(|root| hex(root.as_bytes())).collect::<Vec<_>>(),
            "jwt_id": checked.spiffe_id().to_string(),
            "jwt": token.token(),
            "validated": by_server.spiffe_id().to_string(),
            "refused_for_another": for_another.is_err(),
        })
    );
    if until_end {
        let mut updates = x509.updated();
        let mut last = svid;
        loop {
            tokio::select! {
                changed = updates.changed() => if changed.is_err() { break },
                () = tokio::time::sleep(Duration::from_millis(200)) => {}
            }
            match x509.svid() {
                Ok(now) if now.leaf().as_bytes() != last.leaf().as_bytes() => {
                    println!("{}", json!({ "certificate": hex(now.leaf().as_bytes()) }));
                    last = now;
                }
                Ok(_) => {}
                Err(error) => {
                    println!("{}", json!({ "ended": error.to_string() }));
                    break;
                }
            }
        }
    }
    Ok(())
}
