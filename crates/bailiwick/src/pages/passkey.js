// Asks the browser for a passkey when a form is sent, and puts what it gives into the form. It sends nothing by itself and fetches nothing.
"use strict";
(() => {
  const bytes = (text) => Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
  const text = (buffer) => {
    let all = "";
    for (const byte of new Uint8Array(buffer)) all += String.fromCharCode(byte);
    return btoa(all).replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  };
  const withIds = (list) => (list || []).map((one) => ({ ...one, id: bytes(one.id) }));

  const ask = async (form) => {
    const options = JSON.parse(form.dataset.options);
    options.challenge = bytes(options.challenge);
    if (form.dataset.passkey === "create") {
      options.user.id = bytes(options.user.id);
      options.excludeCredentials = withIds(options.excludeCredentials);
      const made = await navigator.credentials.create({ publicKey: options });
      return { attestation: text(made.response.attestationObject), client_data: text(made.response.clientDataJSON) };
    }
    options.allowCredentials = withIds(options.allowCredentials);
    const used = await navigator.credentials.get({ publicKey: options });
    const { authenticatorData, clientDataJSON, signature, userHandle } = used.response;
    return {
      passkey_id: text(used.rawId),
      authenticator_data: text(authenticatorData),
      client_data: text(clientDataJSON),
      signature: text(signature),
      user_handle: userHandle ? text(userHandle) : "",
    };
  };

  for (const form of document.querySelectorAll("form[data-passkey]")) {
    form.addEventListener("submit", async (event) => {
      const by = event.submitter;
      if (form.dataset.ready === "yes" || (by && by.hasAttribute("data-plain"))) return;
      event.preventDefault();
      const problem = form.querySelector("[data-passkey-problem]");
      try {
        for (const [name, value] of Object.entries(await ask(form))) form.elements.namedItem(name).value = value;
        form.dataset.ready = "yes";
        form.requestSubmit(by);
      } catch (error) {
        problem.textContent = `The browser gave no passkey: ${error.message || error.name}`;
        problem.hidden = false;
      }
    });
  }
})();
