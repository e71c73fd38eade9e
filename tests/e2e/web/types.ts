// How apps in TypeScript use the client package: checked, and not run.

import * as firestore from '@firebase/firestore';
import { collection, doc, type Firestore, getDoc, onSnapshot } from '@firebase/firestore';
import { follow, type Message } from 'holdfast-client';

export async function followed(db: Firestore): Promise<Message['state']> {
  await follow(firestore, db, 'users/u/messages/m');
  const onUpdate = ({ text, message }: { text: string; message: Message | undefined }) => void [text, message?.state];
  return (await follow({ collection, doc, getDoc, onSnapshot }, db, 'users/u/messages/m', { onUpdate })).state;
}

// @ts-expect-error: what lists documents is missing
void follow({ doc, getDoc, onSnapshot }, firestore.getFirestore(), 'users/u/messages/m');
