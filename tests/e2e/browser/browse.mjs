// Runs scenarios in one Chromium, each for visitors of its own. An order is a line of JSON on stdin. What is seen is a
// line each on stdout, `{seen}`, and a scenario's end is another one: `{error}`, which is null if there was none.
import { createInterface } from 'node:readline';

import { chromium } from 'playwright-core';

const WAIT_MS = 60_000;
// The address bar's own pages, two a window, which nobody sees: they take most of a new visitor's time.
const ADDRESS_BAR = ['WebUIOmniboxPopup', 'WebUIOmniboxAimPopup', 'WebUIOmniboxFullPopup'];
// Our list replaces Playwright's, so this repeats what it has against Chromium's own calls and for steady pages.
const PLAYWRIGHTS = [
  'AvoidUnnecessaryBeforeUnloadCheckSync',
  'DestroyProfileOnBrowserClose',
  'HttpsUpgrades',
  'HttpsFirstBalancedModeAutoEnable',
  'MediaRouter',
  'NetworkTimeServiceQuerying',
  'OptimizationHints',
  'PaintHolding',
  'PreconnectToSearch',
  'ThirdPartyStoragePartitioning',
];

const browser = await chromium.launch({
  executablePath: process.argv[2],
  args: [`--disable-features=${[...ADDRESS_BAR, ...PLAYWRIGHTS]}`],
});

function say(what) {
  process.stdout.write(`${JSON.stringify(what)}\n`);
}

async function run(order) {
  const { Visitor, ...scenarios } = await import(`./${order.scenarios}.mjs`);
  const contexts = [];
  const faults = [];

  /** Another browser profile: it shares nothing with the others but the service. */
  async function visitor(options = {}) {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, locale: 'en-GB', ...options });
    contexts.push(context);
    context.setDefaultTimeout(WAIT_MS);
    const page = await context.newPage();
    page.on('pageerror', (error) => faults.push(String(error)));
    page.on('console', (message) => {
      if (message.text().includes('Content Security Policy')) faults.push(message.text());
    });
    return new Visitor(page, order);
  }

  try {
    await scenarios[order.scenario](visitor, order, (seen) => say({ seen }));
    if (faults.length > 0) throw new Error(`The page complained: ${faults.join('\n')}`);
  } finally {
    await Promise.all(contexts.map((context) => context.close()));
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const error = await run(JSON.parse(line)).then(
    () => null,
    (raised) => raised.stack,
  );
  say({ error });
}
await browser.close();
