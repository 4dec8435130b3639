"""The application, topic by topic: the mixins that KtopApp is made of."""
