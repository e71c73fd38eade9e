// Runs one scenario in Chromium: an order as JSON on stdin, what was seen as JSON lines on stdout.
import { text } from 'node:stream/consumers';

import { chromium } from 'playwright-core';

const WAIT_MS = 60_000;

const order = JSON.parse(await text(process.stdin));
const { Visitor, ...scenarios } = await import(`./${order.scenarios}.mjs`);
const browser = await chromium.launch({ executablePath: order.chromium });
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
  await scenarios[order.scenario](visitor, order, (seen) => process.stdout.write(`${JSON.stringify(seen)}\n`));
  if (faults.length > 0) throw new Error(`The page complained: ${faults.join('\n')}`);
} finally {
  await browser.close();
}
