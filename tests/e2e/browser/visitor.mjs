// One who uses the page, by what is written on it: labels, roles and names, as a screen reader finds them.
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';

const AXE = createRequire(import.meta.url).resolve('axe-core/axe.min.js');

export class Visitor {
  constructor(page, { url, api, upstream, token, user, screenshots }) {
    Object.assign(this, { page, url, api, upstream, token, user, screenshots });
    this.calls = []; // what the page has asked of the callable
    page.on('request', (request) => {
      if (isCall(request, api)) this.calls.push(request.postDataJSON().data);
    });
  }

  async signIn(name = this.user) {
    if (!this.page.url().startsWith(this.url)) await this.page.goto(this.url);
    await this.page.getByLabel('Your name').fill(name);
    await this.page.getByRole('button', { name: 'Sign in' }).click();
    await this.page.getByLabel('Your question').waitFor();
  }

  async ask(question, tokens, rate) {
    const tokensField = this.page.getByLabel('Tokens');
    if (!(await tokensField.isVisible())) await this.page.getByText('Length and speed').click();
    await tokensField.fill(String(tokens));
    await this.page.getByLabel('A second').fill(String(rate));
    await this.page.getByLabel('Your question').fill(question);
    await this.page.getByRole('button', { name: 'Ask', exact: true }).click();
  }

  /** The answer to this goes no further than so many tokens until it is let go: what is done amid it is. */
  async hold(text, at) {
    const response = await fetch(`${this.upstream}/demo/hold`, { method: 'POST', body: JSON.stringify({ text, at }) });
    if (!response.ok) throw new Error(await response.text());
  }

  async letGo() {
    await fetch(`${this.upstream}/demo/hold`, { method: 'DELETE' });
  }

  get turn() {
    return this.page.locator('#turns > li').last();
  }

  /** Waits until the last answer is this far. */
  async until(seq) {
    const far = ([at]) => Number(document.querySelector('#turns > li:last-child')?.dataset.seq) >= at;
    await this.page.waitForFunction(far, [seq]);
  }

  /** Waits until the last answer has ended like this. */
  async ended(state) {
    await this.turn.and(this.page.locator(`[data-state="${state}"]`)).waitFor();
  }

  async stop() {
    await this.turn.getByRole('button', { name: 'Stop' }).click();
    await this.ended('stopped');
  }

  /** The last answer as it is on the page: its event's number, and its text. */
  answer() {
    return this.turn.evaluate((turn) => ({
      seq: Number(turn.dataset.seq),
      text: turn.querySelector('.text').textContent,
      seams: turn.querySelectorAll('.seam').length,
    }));
  }

  /** What a screen reader said last. */
  said() {
    return this.page.getByRole('status').textContent();
  }

  /** What is running, asked of the service behind the page's back. */
  async running() {
    const headers = { Authorization: `Bearer ${this.token}` };
    const response = await fetch(`${this.api}/v1/generations?state=queued,streaming`, { headers });
    return (await response.json()).data;
  }

  /** Waits until the one answer that is running is further than this on the service, and gives how far. */
  async servedBeyond(seq) {
    const deadline = Date.now() + 60_000;
    for (;;) {
      const [generation] = await this.running();
      if (generation.lastSeq > seq) return generation.lastSeq;
      if (Date.now() > deadline) throw new Error(`The answer has not come beyond event ${seq}.`);
      await new Promise((over) => setTimeout(over, 50));
    }
  }

  /** Waits until a call was answered, and what the page had to draw before that is drawn. */
  async answered() {
    await this.page.waitForResponse((response) => isCall(response.request(), this.api));
    await this.drawn();
  }

  drawn() {
    return this.page.evaluate(() => new Promise((over) => requestAnimationFrame(() => requestAnimationFrame(over))));
  }

  /** As the page looks on a phone and on a desk. */
  async screenshot(name) {
    for (const [width, height, kind] of [[1280, 800, 'desktop'], [390, 844, 'phone']]) {
      await this.page.setViewportSize({ width, height });
      await this.drawn();
      await this.page.screenshot({ path: join(this.screenshots, `${name}-${kind}.png`) });
    }
    await this.page.setViewportSize({ width: 1280, height: 800 });
  }

  /** What axe finds wrong for those who use a keyboard or a screen reader, or see little. */
  async barriers() {
    await this.page.evaluate(await readFile(AXE, 'utf8'));
    const { violations } = await this.page.evaluate(() => window.axe.run());
    return violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).join(', ')}`);
  }

  /** Whether the page is wider than the window. */
  overflows() {
    return this.page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth);
  }
}

/** Whether the page asks the callable. */
function isCall(request, api) {
  return request.method() === 'POST' && request.url() === `${api}/`;
}
