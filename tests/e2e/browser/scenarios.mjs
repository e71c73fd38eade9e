// What is done in the browser. What must be true of it is said in tests/e2e/test_browser.py.
import { Visitor } from './visitor.mjs';

export * from './client_package.mjs';

export { Visitor };

export async function reload(visitor, order, say) {
  const me = await visitor();
  await me.page.goto(me.url);
  await me.page.getByLabel('Your name').waitFor();
  await me.screenshot('0-sign-in');
  await me.signIn();
  await me.hold(order.question, order.tokens / 2);
  await me.ask(order.question, order.tokens, order.rate);
  await me.until(order.tokens / 4);
  await me.screenshot('1-writing');
  say({ before: await me.answer() });
  await me.page.reload();
  await me.turn.waitFor();
  say({ at: await me.answer() });
  await me.until(order.tokens / 2);
  await me.screenshot('2-after-the-reload');
  await me.letGo();
  await me.ended('completed');
  say({ after: await me.answer(), calls: me.calls });
  await me.screenshot('3-complete');
}

/** Asks in a chat that there is already, and reloads amid the answer. */
export async function inChat(visitor, { user, chat, question, tokens, rate }, say) {
  const me = await visitor();
  await me.page.addInitScript(([key, id]) => localStorage.setItem(key, id), [`holdfast/${user}/chat`, chat]);
  await me.signIn();
  await me.hold(question, tokens / 2);
  await me.ask(question, tokens, rate);
  await me.until(tokens / 4);
  await me.page.reload();
  await me.letGo();
  await me.ended('completed');
  say(await me.answer());
}

/** Reloads once in each answer, as soon as it is as far as the moment says; 0 is before its first word.
 *  Its last token waits for the reload, so that each is amid its answer. */
export async function reloads(visitor, { rounds, moments, tokens, rate, question }, say) {
  const me = await visitor();
  await me.signIn();
  for (let round = 0; round < rounds; round += 1) {
    if (round > 0) await me.page.getByRole('button', { name: 'New chat' }).click();
    const asked = `Round ${round} of ${question}`; // no other round's is a part of it
    await me.hold(asked, tokens - 1);
    await me.ask(asked, tokens, rate);
    await me.until(moments[round]);
    const before = await me.answer();
    await me.page.reload();
    await me.letGo();
    await me.ended('completed');
    const { text, seq } = await me.answer();
    say({ question: asked, left: before.seq, seq, text });
  }
}

/** A page that keeps its text and not its cursor: what must never be. */
export async function forgetful(visitor, order, say) {
  const me = await visitor();
  await me.page.addInitScript(() => {
    for (const key of Object.keys(localStorage).filter((each) => each.includes('/turn/'))) {
      localStorage.setItem(key, JSON.stringify({ ...JSON.parse(localStorage.getItem(key)), seq: 0 }));
    }
  });
  await me.signIn();
  await me.ask(order.question, order.tokens, order.rate);
  await me.until(100);
  const { seq } = await me.answer();
  await me.page.reload();
  await me.until(seq + 50);
  await me.stop();
  say(await me.answer());
}

export async function stop(visitor, order, say) {
  const me = await visitor();
  await me.signIn();
  await me.ask(order.question, order.tokens, order.rate);
  await me.until(20);
  await me.stop();
  await me.page.getByText('Nothing is being written.').waitFor();
  say(await me.answer());
  await me.screenshot('4-stopped');
}

export async function offline(visitor, order, say) {
  const me = await visitor();
  await me.signIn();
  await me.ask(order.question, order.tokens, order.rate);
  await me.until(50);

  await me.page.context().setOffline(true);
  await me.page.locator('#offline').getByText('There is no network').waitFor();
  const first = await away(me, say);
  await me.screenshot('5-offline');
  await me.page.context().setOffline(false);
  await me.until(first + 50);

  const line = me.page.getByRole('switch', { name: 'Connection' });
  await line.uncheck();
  await me.page.locator('#offline').getByText('You have switched the connection off').waitFor();
  const second = await away(me, say);
  await line.check();
  await me.until(second + 50);
  await me.stop();
  say({ after: await me.answer(), calls: me.calls });
}

/** While the page is away the answer goes on, and the page stands still. Gives how far the answer is. */
async function away(me, say) {
  const before = await me.answer();
  const served = await me.servedBeyond(before.seq + 50);
  say({ before, at: await me.answer(), served });
  return served;
}

/** Another device of the same user finds the answer in the list, follows it from its beginning, and stops it there. */
export async function elsewhere(visitor, order, say) {
  const phone = await visitor({ viewport: { width: 390, height: 844 }, colorScheme: 'dark', hasTouch: true });
  await phone.signIn();
  await phone.ask(order.question, order.tokens, order.rate);
  await phone.until(100);
  const { seq } = await phone.answer();
  await phone.page.close();

  const desk = await visitor();
  await desk.signIn();
  await desk.page.getByRole('button', { name: /^Open: / }).click();
  await desk.until(seq + 50);
  await desk.screenshot('6-opened-elsewhere');
  await desk.page.getByRole('button', { name: /^Stop: / }).click();
  await desk.ended('stopped');
  say({ seq, ...(await desk.answer()) });
}

/** Two tabs of one browser ask in one chat: the second waits for the first, and both follow to the end. */
export async function tabs(visitor, { questions, tokens, rate, ...order }, say) {
  const one = await visitor();
  await one.signIn();
  const other = new Visitor(await one.page.context().newPage(), order);
  await other.page.goto(other.url);
  await other.page.getByLabel('Your question').waitFor();
  await one.hold(questions[0], tokens / 2);
  await one.ask(questions[0], tokens, rate);
  await one.until(1);
  await other.ask(questions[1], tokens, rate);
  await other.turn.getByText('Queued').waitFor();
  say((await other.running()).map(({ state }) => state));
  await other.screenshot('10-queued');
  await one.letGo();
  for (const me of [one, other]) {
    await me.ended('completed');
    say(await me.answer());
  }
}

/** The service can't be reached when it is asked, and then can. */
export async function down(visitor, order, say) {
  const me = await visitor();
  await me.signIn();
  await me.page.getByText('Nothing is being written.').waitFor();
  await me.page.route(`${order.api}/**`, (route) => route.abort('connectionrefused'));
  await me.ask(order.question, order.tokens, order.rate);
  await me.turn.getByText('Connection lost, trying again').waitFor();
  await me.page.getByRole('alert').getByText('The list could not be got').waitFor();
  say({ said: await me.said(), barriers: await me.barriers() });
  await me.screenshot('8-service-down');
  await me.page.unroute(`${order.api}/**`);
  await me.ended('completed');
  await me.page.getByRole('alert').getByText('The list could not be got').waitFor({ state: 'hidden' });
  say({ said: await me.said(), ...(await me.answer()) });
}

/** The sign-in's token has run out while the page was closed: a new one is got, and nobody is asked for a name. */
export async function expired(visitor, order, say) {
  const me = await visitor();
  await me.signIn();
  await me.page.evaluate(runOut);
  const renewed = me.page.waitForRequest(/securetoken/);
  await me.page.reload();
  await renewed;
  await me.page.getByLabel('Your question').waitFor();
  await me.ask(order.question, order.tokens, order.rate);
  await me.ended('completed');
  say(await me.answer());
}

/** Runs in the page: the token that the SDK keeps was good until 1970. */
function runOut() {
  return new Promise((done, failed) => {
    const opening = indexedDB.open('firebaseLocalStorageDb');
    opening.onerror = () => failed(opening.error);
    opening.onsuccess = () => {
      const change = opening.result.transaction('firebaseLocalStorage', 'readwrite');
      const kept = change.objectStore('firebaseLocalStorage');
      kept.openCursor().onsuccess = ({ target: { result: at } }) => {
        if (!at) return;
        if (at.value.value?.stsTokenManager) {
          at.value.value.stsTokenManager.expirationTime = 0;
          at.update(at.value);
        }
        at.continue();
      };
      change.oncomplete = () => {
        opening.result.close();
        done();
      };
    };
  });
}

/** Signs out amid an answer; another user of the browser sees nothing of it, and the first comes back to it. */
export async function signedOut(visitor, order, say) {
  const me = await visitor();
  await me.signIn();
  await me.ask(order.question, order.tokens, order.rate);
  await me.until(20);
  await me.page.getByRole('button', { name: 'Sign out' }).click();
  await me.page.getByLabel('Your name').waitFor();
  const focused = await me.page.evaluate(() => document.activeElement.id);
  await me.signIn(`${order.user}-other`);
  await me.page.getByText('Nothing is being written.').waitFor();
  say({ focused, turns: await me.page.locator('#turns > li').count() });
  await me.page.getByRole('button', { name: 'Sign out' }).click();
  await me.signIn();
  const { seq } = await me.answer();
  await me.until(seq + 50);
  await me.stop();
  say(await me.answer());
}

/** A user whose name the service takes for nobody's is refused whatever he asks. */
export async function refused(visitor, order, say) {
  const me = await visitor();
  await me.signIn('__nobody__');
  await me.ask(order.question, order.tokens, order.rate);
  for (let times = 0; times < 2; times += 1) {
    await me.ended('refused');
    say({
      state: await me.turn.locator('.state').textContent(),
      error: await me.turn.locator('.error').textContent(),
      said: await me.said(),
      barriers: await me.barriers(),
    });
    await me.screenshot('9-refused');
    const answered = me.answered(); // until then the page may still show the refusal before
    await me.turn.getByRole('button', { name: 'Try again' }).click();
    await answered;
  }
}

/** Everything by keys alone, and nothing that axe or a narrow window objects to. */
export async function keys(visitor, order, say) {
  for (const [width, colorScheme] of [[1280, 'light'], [320, 'dark']]) {
    const me = await visitor({ viewport: { width, height: 800 }, colorScheme });
    const { keyboard } = me.page;
    const to = async (name) => {
      for (let press = 0; press < 30; press += 1) {
        const at = await me.page.evaluate(() => {
          const { ariaLabel, labels, textContent, title } = document.activeElement;
          return ariaLabel ?? labels?.[0]?.textContent.trim() ?? (textContent.trim() || title);
        });
        if (at.startsWith(name)) return;
        await keyboard.press('Tab');
      }
      throw new Error(`No way leads to '${name}' by keys.`);
    };
    const found = { width, colorScheme, barriers: [], overflows: false };
    const look = async () => {
      found.barriers.push(...(await me.barriers()));
      found.overflows ||= await me.overflows();
    };

    await me.page.goto(me.url);
    await me.page.getByLabel('Your name').waitFor();
    await look();
    await to('Your name');
    await keyboard.type(`${order.user}-${width}`);
    await keyboard.press('Enter');
    await me.page.getByLabel('Your question').waitFor();
    await to('Length and speed');
    await keyboard.press('Enter');
    await to('Tokens');
    await keyboard.type('10000');
    await to('Your question');
    await keyboard.type(order.question);
    await keyboard.press('Enter');
    await me.until(20);
    await me.page.getByRole('button', { name: /^Open: / }).waitFor();
    await look();
    await to('Connection');
    await keyboard.press('Space');
    await me.page.locator('#offline').waitFor();
    await look();
    await me.page.screenshot({ path: `${order.screenshots}/7-switched-off-${width}-${colorScheme}.png` });
    await keyboard.press('Space');
    await me.page.locator('#offline').waitFor({ state: 'hidden' });
    await to('Open');
    await keyboard.press('Enter');
    found.opened = await me.page.evaluate(() => document.activeElement.matches('#turns > li'));
    await to('Stop');
    await keyboard.press('Enter');
    await me.ended('stopped');
    found.said = await me.said();
    await look();
    say(found);
    await me.page.context().close();
  }
}

/** Every public route, called by pages of other origins: what each may read of the answers, and what was asked before. */
export async function otherOrigins(visitor, { pages, api, token }, say) {
  for (const address of pages) {
    const { page } = await visitor();
    const network = await page.context().newCDPSession(page);
    const preflights = [];
    network.on('Network.requestWillBeSent', ({ initiator, request }) => {
      if (initiator.type === 'preflight') preflights.push(new URL(request.url).pathname);
    });
    await network.send('Network.enable');
    await page.goto(address);
    say({ told: await page.evaluate(callEveryRoute, { api, token }), preflights });
    await page.context().close();
  }
}

/** Runs in the page. */
async function callEveryRoute({ api, token }) {
  const told = {};
  const call = async (name, method, path, more = {}, body = undefined) => {
    const headers = { Authorization: `Bearer ${token}`, ...more };
    if (body) headers['Content-Type'] = 'application/json';
    try {
      const response = await fetch(api + path, { method, headers, body: body && JSON.stringify(body) });
      const [generation, location] = ['X-Generation-Id', 'Location'].map((each) => response.headers.get(each));
      told[name] = { status: response.status, generation, location, body: await response.text() };
    } catch (error) {
      told[name] = { refused: error.name };
    }
    return told[name];
  };
  const asked = { model: 'demo', messages: [{ role: 'user', content: 'from a page' }], max_tokens: 5, demo: { rate: 0 } };
  const ids = { 'X-Chat-Id': 'c1', 'X-Message-Id': 'm1', 'Idempotency-Key': 'k1', 'X-Firebase-AppCheck': 'none' };
  const events = { Accept: 'text/event-stream' };
  await call('start', 'POST', '/v1/chat/completions', {}, asked);
  const streamed = { ...asked, stream: true };
  const { generation } = await call('start, streamed', 'POST', '/v1/chat/completions', { ...ids, ...events }, streamed);
  const at = `/v1/generations/${generation ?? 'unknown'}`;
  await call('list', 'GET', '/v1/generations?chat_id=c1');
  await call('show', 'GET', at);
  await call('events', 'GET', at, { ...events, 'Last-Event-ID': '2' });
  await call('stop', 'POST', `${at}/stop`);
  await call('models', 'GET', '/v1/models');
  await call('call', 'POST', '/', {}, { data: { resume: generation ?? 'unknown' } });
  await call('call, streamed', 'POST', '/', events, { data: { resume: generation ?? 'unknown' } });
  await call('delete', 'DELETE', at);
  await call('nobody', 'GET', '/v1/models', { Authorization: 'Bearer abc' });
  return told;
}
