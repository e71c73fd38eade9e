// Runs scenarios in one Chromium, one after the other: each order is a line of JSON on stdin. What is seen goes to
// stdout as lines of JSON with `seen`; one with `failed`, null or what went wrong, ends the scenario.
import { createInterface } from 'node:readline';

import { chromium } from 'playwright-core';

const WAIT_MS = 60_000;

const browser = await chromium.launch({ executablePath: process.argv[2] });

function say(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

async function play(order) {
  const { Visitor, ...scenarios } = await import(`./${order.scenarios}.mjs`);
  const faults = [];

  /** Another browser profile: it shares nothing with the others but the service. */
  async function visitor(options = {}) {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, locale: 'en-GB', ...options });
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
    await Promise.all(browser.contexts().map((context) => context.close()));
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  await play(JSON.parse(line)).then(
    () => say({ failed: null }),
    (error) => say({ failed: error.stack }),
  );
}
await browser.close();
