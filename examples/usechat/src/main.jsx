// The page: signs in, and shows the user's chat.
import { useEffect, useState } from 'react';
import { createRoot } from 'react-dom/client';

import { Conversation } from './conversation.jsx';
import { Kept } from './kept.js';
import { leave, onUser, signIn } from './service.js';

function Page() {
  const [user, setUser] = useState(); // undefined until it is known whether somebody is signed in
  useEffect(() => onUser(setUser), []);
  if (user === undefined) return null;
  return user ? <App key={user.uid} user={user.uid} /> : <SignIn />;
}

function App({ user }) {
  const [kept] = useState(() => new Kept(user));
  const [chat, setChat] = useState(kept.chat);
  return (
    <>
      <header>
        <div className="bar">
          <h1><img src="/usechat/icon.svg" alt="" width="24" height="24" /> Holdfast <small>useChat</small></h1>
          <a href="/">Callables</a>
          <span className="gap" />
          <button type="button" onClick={() => setChat(kept.newChat())}>New chat</button>
          <button type="button" onClick={leave}>Sign out<span className="wide"> {user}</span></button>
        </div>
      </header>
      <Conversation key={chat} id={chat} kept={kept} />
    </>
  );
}

function SignIn() {
  const [error, setError] = useState('');
  const submit = (form) => signIn(form.get('name').trim()).catch((why) => setError(why.message));
  return (
    <main className="sign-in">
      <img src="/usechat/icon.svg" alt="" width="56" height="56" />
      <h1>Holdfast</h1>
      <p>The AI SDK’s useChat, with answers that outlive the connection and no server of its own.</p>
      <form action={submit}>
        <label htmlFor="name">Your name</label>
        <input id="name" name="name" required maxLength={40} pattern="[^\/.]+" title="Without slashes and dots"
          autoComplete="username" spellCheck={false} autoFocus />
        <button className="primary" type="submit">Sign in</button>
        <p className="hint">Any name will do: this sign-in is a local stand-in for Firebase Authentication.</p>
        <p className="error" role="alert">{error && `You could not be signed in: ${error}`}</p>
      </form>
      <p className="hint"><a href="/">The same with callable functions</a></p>
    </main>
  );
}

createRoot(document.getElementById('root')).render(<Page />);
