"""The names of Holdfast's own collections.

Index exemptions, TTL policies and bulk deletion go by a collection's name, wherever in the database it lies. So every
name has a prefix that no application uses. (https://firebase.google.com/docs/firestore/query-data/index-overview)
"""

DEVICES = "holdfastDevices"  # below a user, and written by apps
GENERATIONS = "holdfastGenerations"
JOURNAL = "holdfastJournal"  # below a message
PARTS = "holdfastParts"  # below a message
MEASURE = "holdfastMeasure"  # of operations.measure alone
REQUEST = "holdfastRequest"  # below a generation
TITLES = "holdfastTitles"  # below a chat
USAGE = "holdfastUsage"  # the accounts of users and of the service
TURNS = "holdfastTurns"  # the orders of chats
