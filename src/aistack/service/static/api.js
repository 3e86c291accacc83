// The API page: asks once for the key, fetches the document with it, hands it to Swagger UI.
// The key lives in this tab's sessionStorage and travels in the Authorization header only.
"use strict";

const STORED = "aistack.api-key";
const page = {
  form: document.getElementById("unlock"),
  input: document.getElementById("key"),
  problem: document.getElementById("problem"),
  forget: document.getElementById("forget"),
  api: document.getElementById("api"),
  source: document.body.dataset.openapi,
};

function ask(problem) {
  page.form.hidden = false;
  page.forget.hidden = true;
  page.problem.hidden = !problem;
  page.problem.textContent = problem || "";
  page.input.focus();
}

async function words(response) {
  try {
    const body = await response.json();
    return body.detail || body.error?.message || `HTTP ${response.status}`;
  } catch {
    return `HTTP ${response.status}`;
  }
}

// Same origin only: the key must not go anywhere else, whatever the document says.
function withKey(url, init, key) {
  if (new URL(url, location.href).origin !== location.origin) return fetch(url, init);
  const headers = new Headers(init.headers);
  headers.set("Authorization", `Bearer ${key}`);
  return fetch(url, { ...init, headers });
}

async function show(key) {
  let response;
  try {
    response = await withKey(page.source, { cache: "no-store" }, key);
  } catch {
    return ask("The stack does not answer. Is it running?");
  }
  if (response.status === 401 || response.status === 403) {
    sessionStorage.removeItem(STORED);
    return ask(await words(response));
  }
  if (!response.ok) return ask(`Not now: ${await words(response)}`);
  sessionStorage.setItem(STORED, key);
  page.form.hidden = true;
  page.forget.hidden = false;
  SwaggerUIBundle({
    spec: await response.json(),
    domNode: page.api,
    deepLinking: true,
    docExpansion: "list",
    defaultModelsExpandDepth: 0,
    displayRequestDuration: true,
    tryItOutEnabled: true,
    validatorUrl: null,
    requestInterceptor: (request) => {
      // The shown curl names the variable, so that the key is on no screenshot and still pastes.
      request.curlOptions = ['-H "Authorization: Bearer $AISTACK_API_KEY"'];
      request.userFetch = (url, init) => withKey(url, init, key);
      return request;
    },
  });
}

page.form.addEventListener("submit", (event) => {
  event.preventDefault();
  const key = page.input.value.trim();
  page.input.value = "";
  show(key);
});

page.forget.addEventListener("click", () => {
  sessionStorage.removeItem(STORED);
  location.reload();
});

const stored = sessionStorage.getItem(STORED);
if (stored) show(stored);
else ask();
